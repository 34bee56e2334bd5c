"""`simsiam bench kernels`: each operation of kernels/ → what it takes, beside its reference and its peers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from simsiam.train.config import DeviceName
from simsiam.train.terminal.arguments import call
from simsiam.train.terminal.exit_codes import DONE, FAILED
from simsiam.train.terminal.output_file import check_output

Operation = Literal["negative_cosine", "augment_views", "batch_norm_relu"]


def bench_kernels(
    ops: tuple[Operation, ...] = ("negative_cosine", "augment_views", "batch_norm_relu"),
    skip: tuple[str, ...] = (),
    device: DeviceName = "auto",
    seconds: float = 1.0,
    json: Path | None = None,
) -> int:
    """Check each operation, then time it, beside its reference, torch.compile of that, and other libraries installed.

    A way whose results are wrong gets no time, and the exit code is 1. Inputs are smaller on a CPU.

    Args:
        ops: Operations to measure.
        skip: Ways to leave out, by the names in the table, such as compiled, which takes a while to compile.
        device: Where to run: auto, cpu or cuda.
        seconds: How long each way is measured, up to 50 runs, after one that is not counted.
        json: Write environment and results to this file, too.
    """
    from simsiam.train.bench.kernel_cases import OPERATIONS
    from simsiam.train.bench.kernels import measure, measure_copy
    from simsiam.train.bench.report import write_results
    from simsiam.train.precision import open_device

    if json:
        check_output(json, ".json")
    where, console = open_device(device), Console()
    copy = measure_copy(where)
    console.print(f"{where.type}: a copy in memory moves {copy / 1e9:,.0f} GB/s", highlight=False)
    results = []
    for operation in dict.fromkeys(ops):
        for case in OPERATIONS[operation](where):
            console.print(f"\n{case.operation}, {case.inputs}: {case.bytes_moved / 1e6:,.1f} MB", highlight=False)
            case = case._replace(ways=[way for way in case.ways if way.name not in skip])
            for result in measure(case, where, copy, seconds):
                results.append(result | {"copy_bytes_per_second": copy})
                console.print(_line(result), highlight=False, markup=False, soft_wrap=True)
    if json:
        write_results(results, json)
    # torch.compile may lack its compiler, and a peer may change: ours and its definition may not fail.
    return (
        FAILED if any("failed" in result and result["way"] in ("simsiam", "reference") for result in results) else DONE
    )


def _line(result: dict[str, Any]) -> str:
    if "failed" in result:
        return f"  {result['way']:<12} failed: {result['failed']}"
    low, high = result["milliseconds_20_80"]
    return (
        f"  {result['way']:<12} {result['milliseconds']:>10,.3f} ms  ({low:,.3f} – {high:,.3f})"
        f"  {result['gigabytes_per_second']:>8,.1f} GB/s  {result['percent_of_copy']:>5.1f} % of a copy"
        + ("  not checked: draws for itself" if result["error"] is None else "")
    )


def run(arguments: Sequence[str], prog: str) -> int:
    """Read the options from the command line and do it; returns the exit code."""
    return call(bench_kernels, arguments, prog)
