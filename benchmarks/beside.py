"""What the service is measured beside: applications for uvicorn, which benchmarks/serving.py starts by their names.

echo: bare ASGI, reads the body and answers as many bytes as the service does: what the server alone allows.
plain: FastAPI, pydantic and onnxruntime on the same graph, as one writes it in an afternoon; it answers scores only.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from fastapi import FastAPI
from pydantic import BaseModel, create_model

NAMES = [f"f{i:02d}" for i in range(30)]


def echo() -> Any:
    """Answers /NAME with the bytes of $ANSWERS/NAME."""
    answers = {f"/{path.name}": path.read_bytes() for path in Path(os.environ["ANSWERS"]).iterdir()}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] == "lifespan.startup":
                await send({"type": f"{message['type']}.complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        while (await receive()).get("more_body"):
            pass
        body = answers[scope["path"]]
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return application


def plain() -> Any:
    """POST /score of records, POST /columns of columns, scored by the graph $GRAPH."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.environ["GRAPH"], options, providers=["CPUExecutionProvider"])
    record = create_model("Record", **dict.fromkeys(NAMES, (float, ...)))  # type: ignore[call-overload]
    records = create_model("Records", records=(list[record], ...))  # type: ignore[valid-type]

    class Columns(BaseModel):
        columns: dict[str, list[float]]

    class Answer(BaseModel):
        scores: list[float]

    def answer(x: Any) -> Answer:
        return Answer(scores=session.run(["score"], {"x": x})[0].ravel().tolist())

    def score(body: Any) -> Answer:
        return answer(np.array([[getattr(row, name) for name in NAMES] for row in body.records], np.float32))

    def score_columns(body: Columns) -> Answer:
        return answer(np.ascontiguousarray(np.array([body.columns[name] for name in NAMES], np.float32).T))

    score.__annotations__ |= {"body": records, "return": Answer}
    score_columns.__annotations__ |= {"body": Columns, "return": Answer}
    application = FastAPI()
    application.post("/score")(score)
    application.post("/columns")(score_columns)
    return application
