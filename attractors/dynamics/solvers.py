"""Searches for fixed points of many rows at once: Picard, Anderson, Newton-Krylov and recursive projection.

Each search takes the rows that are still open, works on them only, and leaves as soon as they are done or hopeless.

One subject: four searches over the same rows, with one way to retire those that are done.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eqrlab.attractors.dynamics.eigenvalues import SMALL, Products
from eqrlab.attractors.dynamics.jacobian import Jacobian, random_directions
from eqrlab.attractors.dynamics.krylov.gmres import dense_solve, gmres
from eqrlab.attractors.dynamics.krylov.krylov_schur import leading_pairs
from eqrlab.attractors.fates.cycles import SEEN, longest_period
from eqrlab.core import System
from eqrlab.core.models.system import take_rows

RESULTS = ("converged", "at_floor", "periodic", "wandering", "diverged", "nonfinite", "budget")
CODE = {name: i for i, name in enumerate(RESULTS)}
OPEN = -1
WINDOW = 32  # steps between two looks at a Picard orbit; longer periods are what `long_cycles` looks for
MEMORY = 8  # differences kept by Anderson mixing
JUMPS, JUMP = 3, 0.3  # leaps of Newton's method out of a valley, and their largest length over the scale
RUNAWAY = 1e6
LEADING = 6  # modes among which recursive projection looks for the slow and unstable ones
STRIKES = 2  # windows in a row without progress before a Picard orbit is left
ANDERSON_STEPS, NEWTON_STEPS, PROJECTION_STEPS = 240, 25, 200


@dataclass
class Search:
    """The rows of one batch and what is known of each; all tensors have leading axis n.

    Attributes
    ----------
    z
        Flat states (n, d).
    scale
        Length of the start (`own_lengths`) or of its first update, the larger: residuals count against the norm of the
        state, but at least 1/1000 of this; a state 10^6 times larger has run away and solves nothing.
    code
        Index into `RESULTS`, `OPEN` while undecided.
    hint
        What Picard iteration saw of a row that is still open: "wandering" or "budget".
    evaluations, products
        Step evaluations and Jacobian products spent.
    """

    system: System
    x: Any
    shape: tuple[int, ...]
    z: Tensor
    tol: float
    residual: Tensor
    scale: Tensor
    code: Tensor
    hint: Tensor
    period: Tensor
    evaluations: Tensor
    products: Tensor

    @property
    def open(self) -> Tensor:
        """Rows that are undecided."""
        return (self.code == OPEN).nonzero()[:, 0]

    def step(self, rows: Tensor, z: Tensor) -> Tensor:
        """Apply one outer step to flat states of these rows, and count it."""
        return self.step_within(rows, z, take_rows(self.x, rows))

    def step_within(self, rows: Tensor, z: Tensor, x: Any) -> Tensor:
        """Do the same with the context of these rows at hand."""
        self.evaluations.index_add_(0, rows, torch.ones_like(rows))
        return self.system.step(z.view(-1, *self.shape), x).flatten(1)

    def jacobian(self, rows: Tensor) -> Jacobian:
        return Jacobian(self.system, take_rows(self.x, rows), self.z[rows].view(-1, *self.shape))

    def see(self, rows: Tensor, z: Tensor, residual: Tensor, size: Tensor | None = None) -> Tensor:
        """Store states and residuals of rows, close those that converged or are not finite; return which stay open.

        `size` is the norm of the states where it is known.
        """
        scale = self.scale.index_select(0, rows)
        first = self.residual.index_select(0, rows) == torch.inf
        if first.any():
            scale = torch.where(first, torch.maximum(scale, residual), scale)
            self.scale.index_copy_(0, rows, scale)
        self.z.index_copy_(0, rows, z)
        self.residual.index_copy_(0, rows, residual)
        size = z.norm(dim=1) if size is None else size
        limit = torch.maximum(size, 1e-3 * scale)
        bad = ~(residual + size).isfinite()
        good = (residual <= self.tol * limit) & (size <= RUNAWAY * scale) & ~bad
        for name, which in (("nonfinite", bad), ("converged", good)):
            if which.any():
                self.code[rows[which]] = CODE[name]
        return ~(bad | good)

    def close_cycles(
        self, rows: Tensor, returned: Tensor, period: int, back: Tensor, residual: Tensor, size: Tensor
    ) -> Tensor:
        """Close returned rows that are back within the tolerance, or 1e-6 of an update, after `period` steps."""
        limit = torch.maximum(self.tol * size, 1e-6 * residual)
        exact = returned & (back <= limit) & limit.isfinite()
        closed = rows[exact]
        self.code[closed], self.period[closed], self.residual[closed] = CODE["periodic"], period, back[exact]
        return exact


def begin(system: System, x: Any, z: Tensor, tol: float, length: Tensor) -> Search:
    """Return the search of a batch of starts (n, *state_shape) of lengths (n,); rows that are not finite are closed."""
    n, flat = len(z), z.flatten(1).clone()
    whole = lambda value: torch.full((n,), value, dtype=torch.long, device=z.device)
    search = Search(
        system, x, tuple(z.shape[1:]), flat, tol, flat.new_full((n,), torch.inf), length.clone(), whole(OPEN),
        whole(CODE["budget"]), whole(0), whole(0), whole(0),
    )  # fmt: skip
    search.code[~flat.isfinite().all(1)] = CODE["nonfinite"]
    return search


@torch.no_grad()
def picard(search: Search, steps: int) -> None:
    """Iterate the map itself, and leave rows that converge too slowly or not at all.

    Notes
    -----
    One evaluation per step.  Every 32 steps a reference state is stored; the first return to it, within 1/1000 of an
    update, gives the minimal period, and the row is closed as periodic once it returns to the tolerance, or closer
    than 1e-6 of an update.  A row whose residual fell by less than a tenth since the last look, twice in a row, is left
    as wandering, or as out of budget if it fell at nearly every step; so is one that will not arrive in the steps left
    (out of budget if it fell at three steps of four).
    """
    rows = search.open
    z, x = search.z[rows], take_rows(search.x, rows)
    ref, size = z.clone(), z.norm(dim=1)
    lowest = z.new_full((len(rows),), torch.inf)
    before, previous, since = lowest.clone(), lowest.clone(), 0
    falls, strikes = torch.zeros_like(lowest), torch.zeros_like(lowest)
    for t in range(1, steps + 1):
        if not len(rows):
            return
        y = search.step_within(rows, z, x)
        residual = (y - z).norm(dim=1)
        stay = search.see(rows, z, residual, size)
        falls += residual < previous
        lowest, previous = torch.minimum(lowest, residual), residual
        size = y.norm(dim=1)
        far = (size > RUNAWAY * search.scale.index_select(0, rows)) & stay
        if far.any():
            search.code[rows[far]] = CODE["diverged"]
            stay &= ~far
        since += 1
        back = (y - ref).norm(dim=1)
        returned = stay & (since > 1) & (back <= 1e-3 * residual)
        if returned.any():
            search.period[rows[returned & (search.period[rows] == 0)]] = since
            stay &= ~search.close_cycles(rows, returned, since, back, residual, size)
        z = y
        if since == WINDOW:
            slow = lowest > 0.9 * before
            strikes = torch.where(slow, strikes + 1, 0)
            cycling = search.period[rows] > 0
            search.hint[rows[slow & (falls < 0.9 * WINDOW)]] = CODE["wandering"]
            rate = (lowest / before).clamp(max=1.0) ** (1 / WINDOW)
            need = torch.log(search.tol * size / residual) / torch.log(rate)
            far_off = before.isfinite() & ~slow & (need > steps - t)
            search.hint[rows[far_off & (falls < 0.75 * WINDOW)]] = CODE["wandering"]  # its low was a chance
            late = (strikes >= STRIKES) | far_off
            stay &= ~(late & ~cycling)
            before, lowest, ref, since = lowest, torch.full_like(lowest, torch.inf), y.clone(), 0
            falls = torch.zeros_like(falls)
            search.period[rows[stay]] = 0
        if not stay.all():
            kept = stay.nonzero()[:, 0]
            values = (rows, z, ref, size, lowest, before, previous, falls, strikes)
            rows, z, ref, size, lowest, before, previous, falls, strikes = (
                v.index_select(0, kept) for v in values
            )
            x = take_rows(x, kept)


@torch.no_grad()
def long_cycles(search: Search, steps: int) -> None:
    """Iterate rows that Picard iteration left as wandering on, and close those on a cycle of up to `steps` / 3.

    Notes
    -----
    As in `picard`, with references as far apart as the longest period.  The other rows are left where they were.

    References
    ----------
    R. P. Brent, BIT 20 (1980) 176.
    """
    rows, longest = search.open, longest_period(steps)
    rows = rows[search.hint[rows] == CODE["wandering"]]
    z, x = search.z[rows], take_rows(search.x, rows)
    for t in range(SEEN * longest):
        if not len(rows) or longest <= WINDOW:
            return
        if t % longest == 0:
            ref = z
        y = search.step_within(rows, z, x)
        residual, back, since = (y - z).norm(dim=1), (y - ref).norm(dim=1), t % longest + 1
        returned = (back <= 1e-3 * residual) & (since > 1)
        done = ~back.isfinite()
        if returned.any():
            exact = search.close_cycles(rows, returned, since, back, residual, y.norm(dim=1))
            search.z[rows[exact]] = y[exact]
            done |= exact
        z = y
        if done.any():
            kept = (~done).nonzero()[:, 0]
            rows, z, ref = rows[kept], z[kept], ref[kept]
            x = take_rows(x, kept)


@torch.no_grad()
def anderson(search: Search) -> None:
    """Mix the last updates (type II), going back to the best state whenever the residual doubles.

    References
    ----------
    D. G. Anderson, J. ACM 12 (1965) 547; H. F. Walker and P. Ni, SIAM J. Numer. Anal. 49 (2011) 1715.
    """
    rows = search.open
    z = search.z[rows]
    n, d = z.shape
    dz, df = z.new_zeros(n, MEMORY, d), z.new_zeros(n, MEMORY, d)
    last_z, last_f = z.clone(), torch.zeros_like(z)
    best, best_z, mark = z.new_full((n,), torch.inf), z.clone(), z.new_full((n,), torch.inf)
    count = torch.zeros(n, dtype=torch.long, device=z.device)
    for t in range(ANDERSON_STEPS):
        if not len(rows):
            return
        f = search.step(rows, z) - z
        residual = f.norm(dim=1)
        lost = ~residual.isfinite() & best.isfinite()  # an extrapolation went too far
        stay = search.see(rows, torch.where(lost[:, None], best_z, z), torch.where(lost, best, residual))
        worse = ~(residual <= 2 * best)
        better = residual < best
        best, best_z = torch.where(better, residual, best), torch.where(better[:, None], z, best_z)
        slot = t % MEMORY
        f = torch.where(lost[:, None], 0.0, f)
        fresh = (count > 0) & ~worse
        dz[:, slot] = torch.where(fresh[:, None], z - last_z, 0.0)
        df[:, slot] = torch.where(fresh[:, None], f - last_f, 0.0)
        dz[worse], df[worse] = 0, 0
        gram = (df @ df.transpose(1, 2)).double()
        size = torch.diagonal(gram, dim1=1, dim2=2).sum(1)
        damping = torch.where(size > 1e-280, 1e-10 * size, 1.0)
        gram = gram + damping[:, None, None] * torch.eye(MEMORY, dtype=torch.float64, device=z.device)
        weights = torch.linalg.solve(gram, (df @ f[:, :, None]).double()).to(z)
        mixed = z + f - ((dz + df).transpose(1, 2) @ weights)[:, :, 0]
        last_z, last_f = z, f
        z = torch.where(worse[:, None], best_z, mixed)
        z = torch.where((worse & (best == torch.inf))[:, None], last_z + f, z)
        count = torch.where(worse, 0, count + 1)
        if t % 30 == 29:
            stay &= best <= 0.5 * mark
            mark = best.clone()
        if not stay.all():
            values = (rows, z, dz, df, last_z, last_f, best, best_z, mark, count)
            rows, z, dz, df, last_z, last_f, best, best_z, mark, count = (v[stay] for v in values)
    search.z[rows] = best_z


@torch.no_grad()
def newton(search: Search, known: Tensor | None = None) -> None:
    """Solve f(z) = z by Newton's method, its linear systems by GMRES (directly for small states).

    Parameters
    ----------
    known
        (n, q, d) points to keep away from (NaN: none): deflation.

    Notes
    -----
    The linear residual asked for follows the progress made (Eisenstat-Walker, choice 2), steps are halved until the
    residual falls; where it will not, the row is at a valley of the residual and leaps out of it, three times at most.
    Deflation multiplies the residual by a factor that is infinite at the known points; its Newton
    direction is the plain one times a number.

    References
    ----------
    S. C. Eisenstat and H. F. Walker, SIAM J. Sci. Comput. 17 (1996) 16; P. E. Farrell et al., SIAM J. Sci. Comput.
    37 (2015) A2026.
    """
    rows = search.open
    z = search.z[rows]
    f = search.step(rows, z) - z
    forcing, jumps = torch.full_like(f[:, 0], 0.3), torch.zeros_like(f[:, 0])
    stay = search.see(rows, z, f.norm(dim=1))
    for _ in range(NEWTON_STEPS):
        rows, z, f, forcing, jumps = (v[stay] for v in (rows, z, f, forcing, jumps))
        if not len(rows):
            return
        search.z[rows] = z
        direction = newton_direction(search, rows, f, forcing)
        apart = None if known is None else known[rows]
        factor, slope = _deflation(z, apart, search.scale[rows])
        stretch = 1 / (1 - (slope * direction).sum(1))
        stretch = torch.where(stretch.isfinite(), stretch.clamp(-100, 100), 1.0)
        direction = direction * stretch[:, None]
        merit, length = factor * f.norm(dim=1), 1.0
        waiting = torch.ones(len(rows), dtype=torch.bool, device=z.device)
        new_z, new_f = z.clone(), f.clone()
        for _ in range(8):
            trial = z[waiting] + length * direction[waiting]
            g = search.step(rows[waiting], trial) - trial
            weight, _ = _deflation(
                trial, None if apart is None else apart[waiting], search.scale[rows[waiting]]
            )
            taken = weight * g.norm(dim=1) <= (1 - 1e-4 * length) * merit[waiting]
            where = waiting.nonzero()[:, 0][taken]
            new_z[where], new_f[where] = trial[taken], g[taken]
            waiting[where] = False
            if not waiting.any():
                break
            length /= 2
        jumps += waiting
        leaping = (waiting & (jumps <= JUMPS)).nonzero()[:, 0]
        if len(leaping):
            far = direction[leaping].norm(dim=1, keepdim=True)
            shorten = (JUMP * search.scale[rows[leaping]][:, None] / far).clamp(max=1.0)
            new_z[leaping] = z[leaping] + shorten * direction[leaping]
            new_f[leaping] = search.step(rows[leaping], new_z[leaping]) - new_z[leaping]
        waiting &= jumps > JUMPS
        ratio = new_f.norm(dim=1) / f.norm(dim=1).clamp(min=1e-300)
        forcing = (0.9 * ratio**2).clamp(1e-6, 0.3)
        z, f = new_z, new_f
        stay = search.see(rows, z, f.norm(dim=1)) & ~waiting


def _deflation(z: Tensor, known: Tensor | None, scale: Tensor) -> tuple[Tensor, Tensor]:
    """Return the factor prod(1 + scale^2 / ||z - known||^2) (n,) and the gradient of its logarithm (n, d)."""
    if known is None:
        return z.new_ones(len(z)), torch.zeros_like(z)
    away = z[:, None] - known
    square = away.square().sum(2).clamp(min=1e-300)
    share = torch.nan_to_num(scale[:, None] ** 2 / square, nan=0.0)
    gradient = torch.nan_to_num(-2 * (share / (1 + share) / square)[..., None] * away, nan=0.0)
    return (1 + share).prod(1), gradient.sum(1)


def newton_direction(search: Search, rows: Tensor, f: Tensor, forcing: Tensor) -> Tensor:
    """Return the solution of (I - J) direction = f at the stored states of the rows."""
    jacobian = search.jacobian(rows)
    if f.shape[1] <= SMALL:
        search.products[rows] += f.shape[1]
        return dense_solve(jacobian, f)
    solution, used = gmres(lambda v: v - jacobian.push(v), f, forcing)
    search.products[rows] += used
    return solution


@torch.no_grad()
def projection(search: Search) -> None:
    """Recursive projection: Newton in the space of the slow and unstable modes, the map itself on the rest.

    Notes
    -----
    The space is that of the eigenvalues above 0.9 in modulus among the k leading ones, and is computed anew every 20
    steps.  Reaches saddles with few unstable modes at a cost of about one step an iteration.

    References
    ----------
    G. M. Shroff and H. B. Keller, SIAM J. Numer. Anal. 30 (1993) 1099.
    """
    rows = search.open
    if not len(rows) or search.z.shape[1] <= SMALL:
        return
    z, mark = search.z[rows], search.z.new_full((len(rows),), torch.inf)
    basis = small = None
    for t in range(PROJECTION_STEPS):
        if t % 20 == 0:
            search.z[rows] = z
            basis, small = _slow_space(search, rows)
        assert basis is not None and small is not None
        f = search.step(rows, z) - z
        residual = f.norm(dim=1)
        stay = search.see(rows, z, residual)
        inside = (basis @ f[:, :, None])[:, :, 0]
        unit = torch.eye(basis.shape[1], dtype=torch.float64)
        solved = torch.linalg.lstsq(unit - small, inside.cpu().double()[:, :, None], driver="gelsd").solution[
            :, :, 0
        ]
        z = z + f + ((solved.to(f) - inside)[:, None] @ basis)[:, 0]
        if t % 20 == 19:
            stay &= residual <= 0.5 * mark
            mark = residual
        if not stay.all():
            rows, z, mark, basis = rows[stay], z[stay], mark[stay], basis[stay]
            small = small[stay.cpu()]
        if not len(rows):
            return


def _slow_space(search: Search, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return an orthonormal basis (n, k, d) of the slow and unstable modes (zero rows pad), and J in it (n, k, k)."""
    jacobian = search.jacobian(rows)
    start = random_directions(len(rows), search.z.shape[1], 0, search.z)
    pairs = leading_pairs(Products(jacobian, "right"), start, LEADING, tol=1e-2, max_products=150)
    search.products[rows] += int(pairs.products.max())
    slow = torch.as_tensor(abs(pairs.value) > 0.9, device=rows.device)
    basis = torch.linalg.qr(torch.where(slow[..., None], pairs.vector, 0.0).transpose(1, 2))[0].transpose(
        1, 2
    )
    basis = torch.where(slow[..., None], basis, 0.0).contiguous()
    image = torch.stack([jacobian.push(basis[:, j].contiguous()) for j in range(basis.shape[1])], 1)
    return basis, (basis @ image.transpose(1, 2)).cpu().double()
