"""Entities over HTTP. Start it with as many workers as there are cores:

PIPELINE=training/final uvicorn examples.web_server:app --workers 2
"""

import os
from typing import Any, Dict, Optional

import spacy
import torch
from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from spacy_early_exit.pipe.records import get_confidence, get_records

torch.set_num_threads(1)  # requests run beside one another already
nlp = spacy.load(os.environ.get("PIPELINE", "training/final"))
app = FastAPI()


class Query(BaseModel):
    """A text, and how early its words exit: at most one of threshold and speedup. Without either it
    is as the pipeline's config says.

    text (str): The text.
    threshold (Optional[float]): The uncertainty below which a word exits: higher is faster.
    speedup (Optional[float]): Speedup to aim at, for which the pipeline must be calibrated.
    """

    model_config = ConfigDict(extra="forbid")

    text: str = Field(max_length=20_000)
    threshold: Optional[float] = Field(default=None, ge=0.0, le=1.0)
    speedup: Optional[float] = Field(default=None, ge=1.0, allow_inf_nan=False)

    @field_validator("text", mode="before")
    @classmethod
    def without_surrogates(cls, text: Any) -> Any:
        """Half an emoji is no text to spaCy: a question mark in its place moves nothing else."""
        return text.encode("utf8", "replace").decode("utf8") if isinstance(text, str) else text

    @model_validator(mode="after")
    def of_one_kind(self) -> "Query":
        """Only one of the two can decide how early words exit."""
        if self.threshold is not None and self.speedup is not None:
            raise ValueError("give a threshold or a speedup, not both")
        return self


@app.exception_handler(RequestValidationError)
async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
    """Say what is wrong, but not what was sent, as FastAPI would: it may be no JSON."""
    known = ("body", *Query.model_fields)
    wrong = [
        {"where": [part for part in found["loc"] if part in known], "what": found["msg"]}
        for found in error.errors()
    ]
    return JSONResponse({"detail": wrong}, status_code=422)


@app.post("/entities")
def entities(query: Query) -> Dict[str, Any]:  # no async: each request has a thread
    """RETURNS (Dict[str, Any]): The entities of a text, how sure the model is of each, and the
    record of what the text cost.
    """
    knob = {"threshold": query.threshold, "speedup": query.speedup}
    try:
        doc = nlp(query.text, component_cfg={"early_exit_ner": knob})
    except ValueError as error:
        if query.speedup is None:
            raise
        raise HTTPException(422, str(error)) from error  # out of reach, or not calibrated
    found = [
        {
            "start": ent.start_char,
            "end": ent.end_char,
            "label": ent.label_,
            "confidence": get_confidence(ent),
        }
        for ent in doc.ents
    ]
    return {"entities": found, "record": get_records(doc)["early_exit_ner"]}
