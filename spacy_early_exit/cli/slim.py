"""``spacy early-exit slim``: an encoder without the heads and neurons that hardly matter."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, List, Optional, cast

import typer
from wasabi import msg
from wasabi.tables import table

from .app import CODE, check_output, early_exit, load
from .refusals import Refused, refusing, writing

if TYPE_CHECKING:
    from ..network.families import EncoderSpec

TYPICAL = 32  # wordpieces of a sentence, for which the cost is shown


@early_exit.command("slim")
def slim_cli(
    model: str = typer.Argument(..., help="Pipeline trained with EarlyBirdSearch.v1: its folder"),
    output: Path = typer.Option(
        ..., "--output", "-o", help="Folder for the slim encoder, in Hugging Face's format"
    ),
    heads: Optional[float] = typer.Option(
        None, "--heads", help="Share of attention heads that stay. By default as in the search"
    ),
    neurons: Optional[float] = typer.Option(
        None, "--neurons", help="Share of feed-forward neurons that stay. By default as searched"
    ),
    heads_scope: Optional[str] = typer.Option(
        None,
        "--heads-scope",
        help="layerwise: each layer keeps this share of its heads; global: all layers together",
    ),
    neurons_scope: Optional[str] = typer.Option(
        None, "--neurons-scope", help="The same for neurons"
    ),
    importance: str = typer.Option(
        "gates",
        "--importance",
        "-i",
        help="What decides: gates of a search, magnitude of the weights, or random",
    ),
    seed: int = typer.Option(0, "--seed", help="Seed of random"),
    rewind: bool = typer.Option(
        True, "--rewind/--no-rewind", help="Whether weights are pre-trained ones, or the searched"
    ),
    encoder: Optional[str] = typer.Option(
        None,
        "--encoder",
        "-e",
        help="Pre-trained encoder, to rewind to: folder or hub id. By default the one in the "
        "pipeline's config",
    ),
    with_heads: Optional[Path] = typer.Option(
        None,
        "--with-heads",
        help="Also save a pipeline here, of the slim encoder and the exit heads of this pipeline, "
        "to train on with start_from",
    ),
    component: Optional[str] = typer.Option(
        None, "--component", "-c", help="Its early-exit component, if it has several"
    ),
    code: Optional[Path] = CODE,
) -> None:
    """Cut the attention heads and feed-forward neurons that matter least out of an encoder.

    Train the slim encoder like any other. It has no exit heads: these are new then.
    """
    from ..encoders.base import PretrainedEncoder
    from ..encoders.hugging_face import HFEncoder, write_encoder
    from ..model.slim import Slimming, slim

    for folder in filter(None, (output, with_heads)):
        check_output(folder, folder=True)
    check_choice("--importance", importance, ["gates", "magnitude", "random"])
    nlp, pipe = load(model, component, code)
    asked = {
        "heads": heads,
        "neurons": neurons,
        "heads_scope": heads_scope,
        "neurons_scope": neurons_scope,
    }
    # What was searched for is asked for, unless something else is.
    chosen = {
        name: getattr(pipe.training, name, None) if value is None else value
        for name, value in asked.items()
    }
    for name in ("heads", "neurons"):
        if chosen[name] is None:
            raise Refused(f"Give --{name}, the share that stays: {model} was not searched.")
    scopes = {name: str(chosen[name] or "layerwise") for name in ("heads_scope", "neurons_scope")}
    for name, scope in scopes.items():
        check_choice(f"--{name.replace('_', '-')}", scope, ["layerwise", "global"])
    if with_heads is not None and (others := pipe.borrowers(disabled=True)):
        names = ", ".join(f"'{one.name}'" for one in others)
        raise Refused(
            f"--with-heads: {names} would keep heads over the encoder as it was.",
            "Train all of them with the slim encoder: give --output alone.",
        )
    shim = pipe.model.shims[0]
    with refusing(ValueError):
        slimming = Slimming(
            **cast(Any, {**chosen, **scopes}), importance=cast(Any, importance), seed=seed
        )
        source = HFEncoder(encoder) if encoder is not None else shim.encoder
        found = slim(shim.trained, slimming, source.load() if rewind else None)
    spec = found.network.spec
    weights = dict(found.network.encoder.state_dict())
    with writing(output, ValueError):
        write_encoder(PretrainedEncoder(spec, weights, found.tokenizer.to_str()), output)
    show_sizes(spec)
    msg.good(f"Saved the slim encoder to {output}")
    if with_heads is not None:
        shim.set(found)
        block = {"@misc": "spacy-early-exit.HFEncoder.v1", "name": str(output), "revision": None}
        nlp.get_pipe_config(pipe.name)["model"]["encoder"] = block  # the live object
        with writing(with_heads, ValueError):
            nlp.to_disk(with_heads)
        msg.good(f"Saved a pipeline with its exit heads to {with_heads}")


def check_choice(option: str, value: str, choices: List[str]) -> None:
    """RAISES (Refused): If an option is none of its choices.

    option (str): Its name.
    value (str): Its value.
    choices (List[str]): What it can be.
    """
    if value not in choices:
        raise Refused(
            f"{option} must be {', '.join(choices[:-1])} or {choices[-1]}, not {value!r}."
        )


def show_sizes(spec: "EncoderSpec") -> None:
    """Print what is left of each layer, and of the cost.

    spec (EncoderSpec): The sizes of the slim encoder.
    """
    import torch

    from ..network.cost import full_macs

    whole = spec.unslimmed
    rows = [
        (
            number,
            f"{sizes.heads} of {spec.attention_heads}",
            f"{sizes.neurons} of {spec.intermediate_size}",
        )
        for number, sizes in enumerate(spec.own_sizes, start=1)
    ]
    print(table(rows, header=("layer", "heads", "neurons"), aligns=("r", "r", "r")))
    pieces, words = torch.tensor([TYPICAL]), torch.tensor([0])
    share = int(full_macs(spec, 1, pieces, words)) / int(full_macs(whole, 1, pieces, words))
    msg.info(f"At full depth, it takes {share:.0%} of the operations for {TYPICAL} wordpieces.")
