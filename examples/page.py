"""A page to try a pipeline on: at which layer each word exits, at any speedup.

streamlit run examples/page.py -- training/final
"""

import sys

import spacy
import streamlit as st
from spacy.language import Language

from spacy_early_exit.measure.docs import annotated
from spacy_early_exit.measure.figures import layer_colors
from spacy_early_exit.measure.report import shade
from spacy_early_exit.pipe.component import EarlyExitPipe
from spacy_early_exit.pipe.records import get_records

MAX_CHARACTERS = 20_000
TEXT = "Ann Lee lives in New York, and her friend Bob has just moved to Oslo."
STYLE = """<style>
mark.word { color: #000; padding: .1em .25em; border-radius: .25em; display: inline-block; }
mark.word .layer { font-size: .65em; font-weight: 700; margin-left: .35em; vertical-align: super; }
.entities { line-height: 2.2; overflow-wrap: anywhere; }
</style>"""


@st.cache_resource
def load(folder: str) -> tuple[Language, EarlyExitPipe]:
    """RETURNS (tuple[Language, EarlyExitPipe]): A pipeline and its early-exit component.

    folder (str): Folder or name of the pipeline.
    """
    nlp = spacy.load(folder)
    return nlp, next(pipe for _, pipe in nlp.pipeline if isinstance(pipe, EarlyExitPipe))


def main(folder: str) -> None:
    """Draw the page.

    folder (str): Folder or name of the pipeline.
    """
    st.set_page_config(page_title="Where words exit", layout="wide")
    st.title("Where words exit")
    nlp, pipe = load(folder)
    text = st.text_area("Text", TEXT, max_chars=MAX_CHARACTERS)
    try:
        most = pipe.calibrated().most
    except ValueError as error:
        st.error(str(error))
        return
    asked = st.slider("Speedup: how many times fewer operations", 1.0, most, min(2.0, most), 0.1)
    (doc,) = annotated(pipe, [nlp.make_doc(text)], speedup=asked, store_exits=True)
    record = get_records(doc)[pipe.name]
    if not any(record.layers or ()):
        st.info("There are no words.")
        return
    layers = pipe.network.spec.layers
    colors = layer_colors(layers)
    captions = [pipe.shown(token)[1] for token in doc]
    st.html(STYLE + str(shade(doc, record.layers or (), captions, colors)))
    exits = [layer for layer in record.layers or () if layer]
    saved, deep = st.columns(2)
    saved.metric("Fewer operations, for this text", f"{record.full / record.spent:.2f}X")
    deep.metric("Mean exit layer", f"{sum(exits) / len(exits):.2f} of {layers}")
    st.caption("Each word has the layer at which it exited, and the tag that it got.")


main(sys.argv[1] if len(sys.argv) > 1 else "training/final")
