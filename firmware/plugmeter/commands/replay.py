"""``plugmeter replay``: a recorded run gives the same report again, byte for byte."""

from __future__ import annotations

import argparse

from plugmeter.commands import outputs
from plugmeter.errors import UsageError
from plugmeter.measure import report
from plugmeter.measure.pipeline import Pipeline
from plugmeter.recording import read_recording
from plugmeter.records import RunEnd, RunStart

NAME = "replay"
HELP = "make the report of a recorded run again"
EPILOG = """\
examples:
  plugmeter measure --rig injected --sticks 12 --record run.jsonl --json a.json
  plugmeter replay run.jsonl --json b.json      a.json and b.json are the same, byte for byte
  plugmeter replay run.jsonl --html report.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``plugmeter replay``."""
    parser.add_argument("file", metavar="FILE", help="a recording, as plugmeter measure --record writes it")
    outputs.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Feed the recording to the pipeline, and report."""
    outputs.check(args)
    return outputs.deliver(args, report.build(replayed(args.file)))


def replayed(name: str) -> Pipeline:
    """The pipeline after all inputs of a recording. UsageError where it cannot be read."""
    try:
        file = open(name, "rb")  # noqa: SIM115  closed below; opened here for the error's sake
    except OSError as error:
        raise UsageError(
            f"{name}: {error.strerror}; give a recording that plugmeter measure --record wrote"
        ) from error
    with file:
        inputs = read_recording(file, name)
        start = next(inputs, None)
        if not isinstance(start, RunStart):
            raise UsageError(f"{name} has no run in it: its first line after the header must be run_start")
        try:
            pipeline = Pipeline(start)
        except ValueError as error:
            raise UsageError(f"{name}: {error}; the recording is damaged at its run_start") from error
        for item in inputs:
            if pipeline.end is not None or isinstance(item, RunStart):
                raise UsageError(f"{name} has more in it than one run; the recording is damaged")
            if isinstance(item, int):
                pipeline.advance(item)
            elif isinstance(item, RunEnd):
                pipeline.finish(item)
            else:
                pipeline.feed([item])
        return pipeline
