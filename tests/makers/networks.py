"""Networks with random heads, and what a criterion sees of them."""

import weakref

import numpy as np
import torch

CPU = torch.device("cpu")


def batch_of(*word_counts):
    """Windows of so many words, each of one wordpiece, as a batch."""
    from spacy_early_exit.network.batch import Batch
    from spacy_early_exit.network.window import Window

    def window(words):
        number = np.arange(words)
        return Window(0, number, number, words, number, number, number, number >= 0)

    return Batch.of([window(words) for words in word_counts], CPU)


def network_of(
    folder: str, tags: int = 7, spread: float = 0.6, head_window: int = 1, exit_layers=None
):
    """The network of an encoder's folder with random heads whose certainty varies by word."""
    from spacy_early_exit.encoders.hugging_face import HFEncoder
    from spacy_early_exit.files.network import Trained
    from spacy_early_exit.network.exit_network import ExitNetwork
    from spacy_early_exit.text.tokenizer import WordpieceTokenizer

    loaded = HFEncoder(folder).load()
    network = ExitNetwork(loaded.spec, tags, head_window, exit_layers)
    network.encoder.load_state_dict(loaded.weights)
    torch.manual_seed(1)
    for head in network.heads.values():
        of_one = spread * (loaded.spec.hidden_size / head.in_features) ** 0.5
        torch.nn.init.normal_(head.weight, std=of_one)
        torch.nn.init.normal_(head.bias, std=0.1)
    return Trained(network, WordpieceTokenizer(loaded.tokenizer))


def step_of(layer, words, logits, batch, threshold, learned=None, states=None):
    """What a criterion sees."""
    from spacy_early_exit.network.criterion import Step

    logits = torch.as_tensor(logits)
    states = logits[:, :0] if states is None else states
    return Step(layer, torch.as_tensor(words), logits, batch, threshold, learned or {}, states)


def words_of_windows(monkeypatch, most):
    """Let groups of docs end at so many words, and count those of each that is cut into windows.
    By then the windows of those before the last must be gone.
    """
    from spacy_early_exit.model import predict
    from spacy_early_exit.pipe import stream

    monkeypatch.setattr(stream, "MAX_WORDS", most)
    counts, before = [], []
    real = predict.windows_of

    def watched(docs, *settings):
        assert not any(window() for group in before[:-1] for window in group)
        counts.append(sum(map(len, docs)))
        windows = real(docs, *settings)
        before.append([weakref.ref(window) for window in windows])
        return windows

    monkeypatch.setattr(predict, "windows_of", watched)
    return counts
