"""``bncli bench``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bncli.cli import options
from bncli.cli.parsing import batch_sizes as parse_batch_sizes


def bench(
    checkpoints: Annotated[
        list[Path],
        typer.Argument(
            metavar="CKPT…",
            help="Checkpoint directories, trained or folded, or a model.onnx; the first is what the others are "
            "compared with.",
            show_default=False,
        ),
    ],
    batch_sizes: Annotated[
        str, typer.Option(metavar="B,…", help="Images in a call, separated by commas.")
    ] = "1,32,256",
    rounds: Annotated[int, typer.Option(help="At each batch size; in each, all networks take their turn.", min=5)] = 30,
    cold: Annotated[
        bool, typer.Option("--cold/--no-cold", help="Also start each network in a process of its own.")
    ] = True,
    step: options.Step = "best",
    model: options.Model = None,
    model_arg: options.ModelArg = None,
    input_shape: options.InputShape = None,
    mean: options.Mean = None,
    std: options.Std = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Compare the speed of networks by batch size, cold and warm: a trained checkpoint beside the folded one.

    A call goes from normalised images on the host to logits on the host. Warm calls are interleaved in one process.
    """
    sizes = parse_batch_sizes(batch_sizes)
    from bncli.cli import display, render, session
    from bncli.cli.parsing import absolute_model_name
    from bncli.jobs import bench as benchmark
    from bncli.process.configure import configure

    unsaid = session.unsaid(model_arg, input_shape, mean, std)
    target = benchmark.read_target(checkpoints, unsaid)
    named = absolute_model_name(model) if model is not None else None
    with display.stages(quiet=quiet) as progress:
        # Before JAX starts here, since it may keep a GPU from other processes.
        starts = (
            benchmark.cold_starts(checkpoints, target, sizes, step=step, model=named, unsaid=unsaid, progress=progress)
            if cold
            else None
        )
        configure(target.precision or "bfloat16")  # these settings are right for either
        networks = [benchmark.open_network(path, step=step, model=named, unsaid=unsaid) for path in checkpoints]
        target = benchmark.common_target(target, networks)
        result = benchmark.bench(networks, target, sizes, rounds=rounds, cold=starts, progress=progress)
    render.emit(result, as_json=as_json, to_json=render.bench_json, to_text=render.bench_text)
