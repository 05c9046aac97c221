"""What a user would run instead: Hugging Face's pipeline, ONNX Runtime, OpenVINO and CTranslate2.

They get the network of a trained early-exit pipeline, a BERT or MPNet, with its deepest head. As a
script: writes it for them. Needs onnx, onnxruntime, openvino, nncf and ctranslate2.
"""

import argparse
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import spacy
import torch

from spacy_early_exit.measure.benchmark import Span
from spacy_early_exit.network.exit_network import ExitNetwork


def export(pipeline: Path, output: Path) -> None:
    """Save the network of a pipeline, with its deepest head, as a Hugging Face checkpoint.

    pipeline (Path): A trained pipeline with a BERT or MPNet.
    output (Path): The folder.
    """
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    nlp = spacy.load(pipeline)
    ner = nlp.get_pipe("early_exit_ner")
    trained = ner.model.shims[0].trained
    network, tokenizer = trained.full_depth, trained.tokenizer
    model = in_transformers(network, ner.labels)
    model.save_pretrained(output)
    file = output / "tokenizer.json"
    file.write_text(tokenizer.to_str(), encoding="utf8")
    known = Tokenizer.from_file(str(file))
    fast = PreTrainedTokenizerFast(
        tokenizer_file=str(file),
        pad_token=known.id_to_token(model.config.pad_token_id),
        cls_token=known.id_to_token(int(tokenizer.prefix[0])),
        sep_token=known.id_to_token(int(tokenizer.suffix[-1])),
        unk_token="[UNK]",
        model_input_names=["input_ids", "attention_mask"],  # one text: all types are 0
        # the positions before the first one are not for wordpieces
        model_max_length=network.spec.positions - network.spec.first_position,
    )
    fast.save_pretrained(output)


def in_transformers(network: ExitNetwork, labels: Sequence[str]) -> Any:
    """RETURNS (Any): A BERT or MPNet in transformers, with the deepest head.

    network (ExitNetwork): The network.
    labels (Sequence[str]): Its labels.
    """
    from transformers import AutoConfig, AutoModelForTokenClassification

    spec = network.spec
    assert spec.family in ("bert", "mpnet"), spec.family
    tags = ["O"] + [f"{kind}-{label}" for label in labels for kind in "BI"]
    config = AutoConfig.for_model(
        spec.family,
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.attention_heads,
        intermediate_size=spec.intermediate_size,
        hidden_act=spec.activation,
        max_position_embeddings=spec.positions,
        layer_norm_eps=spec.layer_norm_eps,
        id2label=dict(enumerate(tags)),
        label2id={tag: i for i, tag in enumerate(tags)},
    )
    model = AutoModelForTokenClassification.from_config(config)
    family, start = spec.table, f"{spec.family}."
    modules = {f"embeddings.{name}": theirs for name, theirs in family.embeddings.items()}
    modules.update(family.whole)
    for i in range(spec.layers):
        prefix = family.layer_prefix.format(i=i)
        for name, theirs in family.layer.items():
            modules[f"layers.{i}.{name}"] = tuple(prefix + of for of in theirs)
    ours, weights = network.state_dict(), {}
    for kind in ("weight", "bias"):
        weights[f"classifier.{kind}"] = ours[f"heads.{spec.layers - 1}.{kind}"]
        for mine, theirs in modules.items():
            if (whole := ours.get(f"encoder.{mine}.{kind}")) is not None:
                for name, part in zip(theirs, whole.chunk(len(theirs)), strict=True):
                    weights[f"{start}{name}.{kind}"] = part.clone()
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and all("position_ids" in name for name in missing), missing
    return model.eval()


def export_onnx(checkpoint: Path) -> None:
    """Write model.onnx and model-int8.onnx beside a Hugging Face checkpoint, for ONNX Runtime, and
    plain.onnx, without its own fused operations.

    ONNX Runtime's own optimizer fuses what it knows of a BERT. Weights in int8 have a scale for
    each output.

    checkpoint (Path): The folder.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers.optimizer import optimize_model
    from transformers import AutoModelForTokenClassification

    # The plain attention is the one whose pattern the optimizer knows.
    model = AutoModelForTokenClassification.from_pretrained(
        checkpoint, attn_implementation="eager"
    ).eval()
    ids = torch.tensor([[5, 6, 7, 8], [5, 6, 0, 0]])
    plain, fp32, int8 = (checkpoint / f"{name}.onnx" for name in ("plain", "model", "model-int8"))
    names = {0: "batch", 1: "length"}
    torch.onnx.export(
        model,
        (ids, (ids > 0).long()),
        str(plain),
        input_names=["ids", "mask"],
        output_names=["logits"],
        dynamic_axes={"ids": names, "mask": names, "logits": names},
        opset_version=17,
        dynamo=False,
    )
    config = model.config
    optimized = optimize_model(
        str(plain),
        model_type="bert",
        num_heads=config.num_attention_heads,
        hidden_size=config.hidden_size,
        opt_level=0,  # only its fusions; the rest is done when the session starts
    )
    optimized.save_model_to_file(str(fp32))
    fused = optimized.get_fused_operator_statistics()
    print(json.dumps({name: count for name, count in fused.items() if count}))
    quantize_dynamic(
        str(fp32),
        str(int8),
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},  # fused nodes have no type
    )


def export_openvino(checkpoint: Path) -> None:
    """Write openvino.xml and openvino-int8.xml, whose weights are compressed as its makers do it,
    beside plain.onnx.

    checkpoint (Path): The folder.
    """
    import nncf
    import openvino

    model = openvino.convert_model(checkpoint / "plain.onnx")
    openvino.save_model(model, checkpoint / "openvino.xml", compress_to_fp16=False)
    compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(compressed, checkpoint / "openvino-int8.xml", compress_to_fp16=False)


def export_ctranslate2(checkpoint: Path) -> None:
    """Write the folder ctranslate2 in a Hugging Face checkpoint.

    checkpoint (Path): The folder.
    """
    from ctranslate2.converters import TransformersConverter
    from transformers import AutoModel

    encoder = checkpoint / "encoder"  # it knows BERT without a head
    AutoModel.from_pretrained(checkpoint).save_pretrained(encoder)
    for file in checkpoint.glob("*token*"):
        (encoder / file.name).write_bytes(file.read_bytes())
    TransformersConverter(str(encoder)).convert(str(checkpoint / "ctranslate2"), force=True)


class HFRunner:
    """Hugging Face's token-classification pipeline.

    checkpoint (str): The folder.
    batch_size (int): Texts in a batch, padded to the longest.
    stride (int): Wordpieces that windows of long texts share; 0: there are none that are too long.
    """

    def __init__(self, checkpoint: str, batch_size: int, stride: int = 0):
        from transformers import pipeline

        how = {"stride": stride} if stride else {}
        self._pipeline = pipeline(
            "token-classification", checkpoint, aggregation_strategy="first", device="cpu", **how
        )
        self._batch_size = batch_size

    def __call__(self, texts: Sequence[str]) -> list[list[dict[str, Any]]]:
        """RETURNS (list): What the pipeline says of each text."""
        found: list[list[dict[str, Any]]] = self._pipeline(list(texts), batch_size=self._batch_size)
        return found

    def spans(self, found: list[list[dict[str, Any]]]) -> list[list[Span]]:
        """RETURNS (list[list[Span]]): The entities of each text."""
        return [[(e["start"], e["end"], e["entity_group"]) for e in text] for text in found]


class BatchRunner(ABC):
    """An engine that is called with batches of texts of like length.

    checkpoint (str): The folder.
    batch_size (int): Texts in a batch.
    """

    def __init__(self, checkpoint: str, batch_size: int):
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_file(f"{checkpoint}/tokenizer.json")
        config = json.loads(Path(checkpoint, "config.json").read_text())
        self._tags = [config["id2label"][str(i)] for i in range(len(config["id2label"]))]
        told = json.loads(Path(checkpoint, "tokenizer_config.json").read_text())
        self._tokenizer.enable_truncation(told["model_max_length"])
        self._tokenizer.no_padding()
        self._batch_size = batch_size

    @abstractmethod
    def logits(self, batches: Sequence[list[list[int]]]) -> Iterator[Sequence[np.ndarray]]:
        """YIELDS (Sequence[np.ndarray]): The logits of each text of a batch, with or without
        padding.

        batches (Sequence[list[list[int]]]): The wordpieces of the texts, the longest first.
        """

    def __call__(self, texts: Sequence[str]) -> list[tuple[Any, np.ndarray]]:
        """RETURNS (list): The wordpieces of each text, and the tag of each wordpiece."""
        encodings = self._tokenizer.encode_batch(list(texts))
        order = sorted(range(len(texts)), key=lambda i: -len(encodings[i].ids))
        size = self._batch_size
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        found: list[Any] = [None] * len(texts)
        answers = self.logits([[encodings[i].ids for i in batch] for batch in batches])
        for batch, logits in zip(batches, answers, strict=True):
            for i, of_text in zip(batch, logits, strict=True):
                found[i] = (encodings[i], of_text[: len(encodings[i].ids)].argmax(-1))
        return found

    def spans(self, found: list[tuple[Any, np.ndarray]]) -> list[list[Span]]:
        """RETURNS (list[list[Span]]): The entities; each word as its first wordpiece."""
        return [self._spans(encoding, tags) for encoding, tags in found]

    def _spans(self, encoding: Any, tags: np.ndarray) -> list[Span]:
        spans: list[Span] = []
        goes_on = ""  # the label of an entity that the next word may continue
        word = None
        for number, tag, (start, end) in zip(encoding.word_ids, tags, encoding.offsets):
            if number is None:
                goes_on, word = "", None
                continue
            if number == word:
                if goes_on:
                    spans[-1] = (spans[-1][0], end, goes_on)
                continue
            word = number
            kind, _, label = self._tags[tag].partition("-")
            if kind == "I" and label == goes_on:
                spans[-1] = (spans[-1][0], end, label)
            elif label:
                spans.append((start, end, label))
            goes_on = label
        return spans


def padded(batch: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """RETURNS (tuple[np.ndarray, np.ndarray]): The wordpieces of a batch, padded to the longest
    text, and which of them are there. *Shapes:* ``(texts, longest)``
    """
    ids = np.zeros((len(batch), len(batch[0])), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return ids, mask


class OnnxRunner(BatchRunner):
    """ONNX Runtime.

    checkpoint (str): The folder.
    file (str): Which file in it.
    batch_size (int): Texts in a batch.
    threads (int): Threads within an operation.
    """

    def __init__(self, checkpoint: str, file: str, batch_size: int, threads: int):
        import onnxruntime

        super().__init__(checkpoint, batch_size)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Waiting threads must not take the cores of the other contenders.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            f"{checkpoint}/{file}", options, providers=["CPUExecutionProvider"]
        )

    def logits(self, batches: Sequence[list[list[int]]]) -> Iterator[Sequence[np.ndarray]]:
        """YIELDS (Sequence[np.ndarray]): The logits of each text of a batch."""
        for batch in batches:
            ids, mask = padded(batch)
            yield self._session.run(None, {"ids": ids, "mask": mask})[0]


class OpenVinoRunner(BatchRunner):
    """OpenVINO, with one batch on each thread.

    checkpoint (str): The folder.
    file (str): Which file in it.
    precision (str): In what it computes: ``"f32"`` or ``"bf16"``.
    batch_size (int): Texts in a batch.
    threads (int): How many batches are computed at once, each on a thread.
    """

    def __init__(self, checkpoint: str, file: str, precision: str, batch_size: int, threads: int):
        import openvino

        super().__init__(checkpoint, batch_size)
        how = {
            "NUM_STREAMS": str(threads),
            "INFERENCE_NUM_THREADS": str(threads),
            "INFERENCE_PRECISION_HINT": precision,
        }
        self._model = openvino.Core().compile_model(f"{checkpoint}/{file}", "CPU", how)
        self._requests = openvino.AsyncInferQueue(self._model, 2 * threads)

    def logits(self, batches: Sequence[list[list[int]]]) -> Iterator[Sequence[np.ndarray]]:
        """YIELDS (Sequence[np.ndarray]): The logits of each text of a batch."""
        found: dict[int, np.ndarray] = {}
        self._requests.set_callback(
            lambda request, number: found.update({number: request.get_output_tensor(0).data.copy()})
        )
        for number, batch in enumerate(batches):
            ids, mask = padded(batch)
            self._requests.start_async({"ids": ids, "mask": mask}, number)
        self._requests.wait_all()
        for number in range(len(batches)):
            yield found[number]


class CTranslate2Runner(BatchRunner):
    """CTranslate2, which computes the encoder; the head is numpy's.

    checkpoint (str): The folder.
    compute_type (str): In what it computes: ``"float32"`` or ``"int8"``.
    batch_size (int): Texts in a batch.
    threads (int): How many batches are computed at once, each on a thread.
    """

    def __init__(self, checkpoint: str, compute_type: str, batch_size: int, threads: int):
        import ctranslate2
        from safetensors.numpy import load_file

        super().__init__(checkpoint, batch_size)
        self._encoder = ctranslate2.Encoder(
            f"{checkpoint}/ctranslate2",
            compute_type=compute_type,
            inter_threads=threads,
            intra_threads=1,
        )
        weights = load_file(f"{checkpoint}/model.safetensors")
        self._head = weights["classifier.weight"].T, weights["classifier.bias"]
        self._pool = ThreadPoolExecutor(threads)

    def logits(self, batches: Sequence[list[list[int]]]) -> Iterator[Sequence[np.ndarray]]:
        """YIELDS (Sequence[np.ndarray]): The logits of each text of a batch."""
        return self._pool.map(self._of_batch, batches)

    def _of_batch(self, batch: list[list[int]]) -> np.ndarray:
        states = np.asarray(self._encoder.forward_batch(batch).last_hidden_state)
        weight, bias = self._head
        answer: np.ndarray = states @ weight + bias
        return answer


def make_hf(**arguments: Any) -> HFRunner:
    """RETURNS (HFRunner): It."""
    return HFRunner(**arguments)


def make_onnx(**arguments: Any) -> OnnxRunner:
    """RETURNS (OnnxRunner): It."""
    return OnnxRunner(**arguments)


def make_openvino(**arguments: Any) -> OpenVinoRunner:
    """RETURNS (OpenVinoRunner): It."""
    return OpenVinoRunner(**arguments)


def make_ctranslate2(**arguments: Any) -> CTranslate2Runner:
    """RETURNS (CTranslate2Runner): It."""
    return CTranslate2Runner(**arguments)


def main() -> None:
    """Run the script: export a pipeline for the others."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    export(args.pipeline, args.output)
    export_onnx(args.output)
    export_openvino(args.output)
    if json.loads((args.output / "config.json").read_text())["model_type"] == "bert":
        export_ctranslate2(args.output)  # the only one of the two that it knows


if __name__ == "__main__":
    main()
