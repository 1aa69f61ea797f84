"""The command group ``fastkernels-env fleet``. Ray is imported inside the commands."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Annotated

import typer

from .._terminal import ACCEPTED, OTHER, Problem, display, make_table, write

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Judges on a Ray cluster.")

AddressOption = Annotated[str, typer.Option(help="Of the cluster; auto: the one that runs on this host.")]


@app.callback()
def _group() -> None:
    """Judges on a Ray cluster."""


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Port at which other hosts join.")] = 6379,
    cpus: Annotated[int | None, typer.Option(help="Cores of this host; all without it.")] = None,
    gpus: Annotated[int | None, typer.Option(help="GPUs of this host; all without it.")] = None,
) -> int:
    """Start a cluster on this host, and say how others join and how it is stopped."""
    ray = Path(sys.executable).with_name("ray")
    if not ray.exists():
        raise Problem(f"expected Ray's command beside {sys.executable}, found none; install ray there")
    options = [f"--{name}={value}" for name, value in (("num-cpus", cpus), ("num-gpus", gpus)) if value is not None]
    started = subprocess.run(
        [str(ray), "start", "--head", f"--port={port}", "--disable-usage-stats", *options], capture_output=True, text=True
    )
    if started.returncode:
        raise Problem(f"no cluster was started: {(started.stderr or started.stdout).strip().splitlines()[-1:]}")
    write(
        f"a cluster runs on this host; others join it with `ray start --address=THIS_HOST:{port}`\n"
        "judge with it: fastkernels_env.fleet.Fleet(address='auto'); stop it: `ray stop`\n"
    )
    return ACCEPTED


@app.command()
def status(
    address: AddressOption = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """List the hosts of a cluster and what judges could run there; exit status 1 if there are none."""
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise Problem(f"expected a cluster at {address!r}, there is none ({error}); start one with `fastkernels-env fleet up`") from None
    hosts = [
        {
            "host": node["NodeManagerHostname"], "alive": node["Alive"], "cores": int(node["Resources"].get("CPU", 0)),
            "gpus": int(node["Resources"].get("GPU", 0)),
            "sku": next((name.removeprefix("accelerator_type:") for name in node["Resources"] if name.startswith("accelerator_type:")), ""),
        }
        for node in ray.nodes()  # type: ignore[no-untyped-call]
    ]
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    found = {"hosts": hosts, "free_cores": free.get("CPU", 0.0), "free_gpus": free.get("GPU", 0.0)}
    if as_json:
        write(json.dumps(found, indent=1) + "\n")
    else:
        rows = [(str(h["host"]), "up" if h["alive"] else "gone", str(h["cores"]), str(h["gpus"]), str(h["sku"] or "-")) for h in hosts]
        display(make_table(("host", "state", "cores", "GPUs", "SKU"), rows))
        write(f"free: {found['free_cores']:g} cores, {found['free_gpus']:g} GPUs\n")
    return ACCEPTED if any(host["alive"] and (host["cores"] or host["gpus"]) for host in hosts) else OTHER
