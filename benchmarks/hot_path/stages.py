"""The stages of a request: which functions of the server count for which."""

from __future__ import annotations

import pickle

from benchmarks.hot_path.stopwatch import Stage
from lanewise.backends.host_runner import InputBuffers
from lanewise.backends.ort import OrtSession
from lanewise.ipc.client import FrontEndSession
from lanewise.ipc.connection import Connection
from lanewise.ipc.server import EngineSession
from lanewise.ipc.tensors import TensorReader, TensorWriter
from lanewise.rpc.inference import service
from lanewise.rpc.inference.codec import Codec
from lanewise.scheduler import flow, gathering
from lanewise.scheduler.core import Scheduler
from lanewise.scheduler.dispatcher import Dispatcher
from lanewise.scheduler.flow import RequestFlow
from lanewise.scheduler.gathering import Gathering
from lanewise.scheduler.launching import Launcher
from lanewise.scheduler.registry import ModelRegistry
from lanewise.scheduler.routing import Router
from lanewise.telemetry.metrics import Metrics

LAUNCH = "launch: build batch, hand over"
TURN = "yield the core (sched_yield)"

RPC = (
    Stage("find model, count the request", ModelRegistry, "resolve"),
    Stage("options", service, "read_parameters"),
    Stage("options", Codec, "select_outputs"),
    Stage("decode", Codec, "decode_inputs"),
    Stage("encode", Codec, "encode_response"),
)

COUNT = (Stage("find model, count the request", Metrics, "request_finished"),)

LANES = (
    Stage("begin: route", Router, "route"),
    Stage("begin", Dispatcher, "begin"),
    Stage("begin", RequestFlow, "begin"),
    Stage("begin: admit", Scheduler, "admit"),
    Stage("gather requests", Gathering, "note_arrival"),
    Stage("gather requests", Gathering, "_first_look"),
    Stage("gather requests", Gathering, "_look"),
    Stage("choose (policy and core)", Scheduler, "tick"),
    Stage("launch: carry out", RequestFlow, "_carry_out"),
    Stage(LAUNCH, Launcher, "launch"),
    Stage("end of launch (core)", Scheduler, "_free_place"),
    Stage("deliver: end of launch", RequestFlow, "_finish"),
    Stage("deliver: cut rows", RequestFlow, "_deliver"),
    Stage("deliver: join, tell the caller", RequestFlow, "_end"),
    Stage("deliver: join, tell the caller", flow, "join"),
)

TURNS = (Stage(TURN, gathering.os, "sched_yield"),)
"""With a client on another core: turns of the loop that wait for requests on their way in."""

EXECUTION = (
    Stage("execute: stack and pad", InputBuffers, "gather"),
    Stage("execute: ONNX Runtime", OrtSession, "__call__"),
)

FRONT_END = (
    Stage("pack tensors", TensorWriter, "pack"),
    Stage("take back blocks", TensorWriter, "free"),
    Stage("pickle and send", Connection, "_flush"),
    Stage("unpickle", pickle, "loads"),
    Stage("unpack tensors", TensorReader, "read"),
    Stage("unpack tensors", FrontEndSession, "read"),
)

ENGINE = (
    Stage("pack tensors", TensorWriter, "pack"),
    Stage("take back blocks", TensorWriter, "free"),
    Stage("pickle and send", Connection, "_flush"),
    Stage("unpickle", pickle, "loads"),
    Stage("unpack tensors", TensorReader, "read"),
    Stage("free blocks", TensorReader, "_forget"),
    Stage("begin requests, answer them", EngineSession, "_infer"),
    Stage("begin requests, answer them", EngineSession, "_end"),
)
