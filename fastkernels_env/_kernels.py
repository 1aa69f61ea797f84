"""The judge's own kernels (Triton): what takes torch many passes over memory, which judges of one GPU share, takes these one.

`_passes` launches them. They also run in Triton's interpreter, where they are tested against what torch gives.
"""

import triton
import triton.language as tl


@triton.jit
def fill_units(
    target, stack, source, factor, units, chunks, length, slot_stride, run, line_stride, width, first,
    SCALED: tl.constexpr, WIDE: tl.constexpr, DENSE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write unit ``source[i]`` of a stack to place i of a target, times a factor; see `_passes.fill`."""
    program = tl.program_id(0)
    unit = (program // chunks).to(tl.int64)
    slot, place = unit // units, unit % units
    at = (program % chunks) * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    values = tl.load(stack + tl.load(source + unit) * length + at, mask=inside)
    if SCALED:
        scaled = (values.to(WIDE) * tl.load(factor + unit).to(WIDE)).to(values.dtype)
        values = tl.where(at % width >= first, scaled, values)
    within = place * length + at
    if not DENSE:
        within = within // run * line_stride + within % run
    tl.store(target + slot * slot_stride + within, values, mask=inside)


@triton.jit
def differing_slots(
    wrong, copies, stack, source, factor, units, chunks, length, width, first,
    SCALED: tl.constexpr, WIDE: tl.constexpr, BITS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Set ``wrong[slot]`` where copies hold other bits than the units that belong there; see `_passes.differing`."""
    program = tl.program_id(0)
    unit = (program // chunks).to(tl.int64)
    at = (program % chunks) * BLOCK + tl.arange(0, BLOCK)
    inside = at < length
    due = tl.load(stack + tl.load(source + unit) * length + at, mask=inside)
    seen = tl.load(copies + unit * length + at, mask=inside)
    if SCALED:
        scaled = (due.to(WIDE) * tl.load(factor + unit).to(WIDE)).to(due.dtype)
        due = tl.where(at % width >= first, scaled, due)
        due, seen = due.to(BITS, bitcast=True), seen.to(BITS, bitcast=True)
    if tl.max(((due != seen) & inside).to(tl.int32), 0) > 0:
        tl.store(wrong + unit // units, 1)


@triton.jit
def error_sums(
    cells, columns, figures, actual, expected, of_rows, rows, width, cell, chunks, tiles, relative, absolute, share,
    STEPS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Sums of squared errors, squares and squared roundings by row and cell, and by column, of a tile; see `_passes.errors`."""
    program = tl.program_id(0)
    block, tile = program // tiles, program % tiles
    number, column = tile // chunks, tile % chunks * COLUMNS + tl.arange(0, COLUMNS)
    in_cell = column < cell
    column = number * cell + column
    energies = tl.zeros([ROWS, COLUMNS], tl.float64)
    errors = tl.zeros([ROWS, COLUMNS], tl.float64)
    roundings = tl.zeros([ROWS, COLUMNS], tl.float64)
    outside = tl.zeros([ROWS, COLUMNS], tl.int32)
    gates = tl.zeros([ROWS, COLUMNS], tl.float64)
    finite = tl.zeros([ROWS, COLUMNS], tl.float64)
    for step in range(STEPS):
        row = (block * STEPS + step) * ROWS + tl.arange(0, ROWS)
        inside = (row < rows)[:, None] & in_cell[None, :]
        at = row.to(tl.int64)[:, None] * width + column[None, :]
        e = tl.load(expected + at, mask=inside, other=0.0)
        given = tl.load(actual + at, mask=inside, other=0.0)
        rounded = e.to(tl.float32).to(given.dtype).to(tl.float64)
        error = given.to(tl.float64) - e
        finite += error + rounded  # stays finite while all of them are
        tolerance = tl.abs(e) * relative + absolute
        row_tolerance = tl.load(of_rows + row, mask=row < rows, other=0.0) * share
        tolerance = tl.maximum(tolerance, row_tolerance[:, None])
        gate = tl.where(error == 0, 0.0, tl.abs(error) / tolerance)
        outside += (gate > 1).to(tl.int32)
        gates = tl.maximum(gates, gate)
        off = rounded - e
        error, energy, off = error * error, e * e, off * off
        part = row.to(tl.int64) * tiles + tile
        size = tl.cast(rows, tl.int64) * tiles
        tl.store(cells + part, tl.sum(error, 1), mask=row < rows)
        tl.store(cells + size + part, tl.sum(energy, 1), mask=row < rows)
        tl.store(cells + 2 * size + part, tl.sum(off, 1), mask=row < rows)
        errors += error
        energies += energy
        roundings += off
    size = (tl.num_programs(0) // tiles).to(tl.int64) * width
    place = block.to(tl.int64) * width + column
    tl.store(columns + place, tl.sum(errors, 0), mask=in_cell)
    tl.store(columns + size + place, tl.sum(energies, 0), mask=in_cell)
    tl.store(columns + 2 * size + place, tl.sum(roundings, 0), mask=in_cell)
    tl.store(figures + 3 * program, tl.sum(tl.sum(outside, 1), 0).to(tl.float64))
    tl.store(figures + 3 * program + 1, tl.max(tl.max(gates, 1), 0))
    tl.store(figures + 3 * program + 2, tl.sum(tl.sum(finite, 1), 0))
