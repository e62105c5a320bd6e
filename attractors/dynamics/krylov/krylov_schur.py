"""Leading eigenpairs of many operators at once: Krylov-Schur with whole conjugate pairs, rows retired when done."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import scipy.linalg
import torch
from torch import Tensor


class Operator(Protocol):
    """n independent linear maps of vectors (n, d)."""

    def __call__(self, v: Tensor) -> Tensor: ...

    def select(self, rows: Tensor) -> Operator:
        """Return the operator of some of the rows."""
        ...


class Pairs(NamedTuple):
    """Eigenpairs of n operators, each row in the order wanted.

    Attributes
    ----------
    value
        (n, k + 1) complex; the last column is NaN unless a conjugate pair would have been cut without it.
    vector
        (n, k + 1, d) real: the eigenvector of a real value; real and imaginary part for the two members of a pair.
    residual
        (n, k + 1), ||A v - value v|| / |value| with ||v|| = 1, measured by applying the operator; see `relative`.
    absolute, scale
        (n, k + 1) ||A v - value v||, and (n,) the size of the operator as its Krylov space shows it.
    products
        (n,) products spent.
    """

    value: np.ndarray
    vector: Tensor
    residual: np.ndarray
    absolute: np.ndarray
    scale: np.ndarray
    products: np.ndarray


class Order(NamedTuple):
    """Which eigenvalues come first: "modulus" (largest), "real" (largest real part) or "near" (a real target)."""

    kind: str
    target: float = 0.0

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the indices of eigenvalues (m,) of a real matrix, wanted first, whole pairs side by side.

        The members of a pair must follow each other, the positive imaginary part first, as LAPACK gives them: pairs
        that occur several times are equal to rounding only, and sorting single values would mix their members.
        """
        first = np.flatnonzero(values.imag >= 0)
        chosen = values[first]
        key = {
            "modulus": lambda v: -np.abs(v),
            "real": lambda v: -v.real,
            "near": lambda v: np.abs(v - self.target),
        }[self.kind](chosen)
        order = [(i, i + 1) if values[i].imag > 0 else (i,) for i in first[np.lexsort((chosen.imag, key))]]
        return np.array([i for pair in order for i in pair], int)


MODULUS = Order("modulus")
ROUNDING = 64.0  # epsilons of the operator's size up to which a residual is rounding


def leading_pairs(
    operator: Operator,
    start: Tensor,
    k: int,
    *,
    order: Order = MODULUS,
    tol: float | np.ndarray = 1e-4,
    subspace: int | None = None,
    max_products: int | np.ndarray = 1000,
) -> Pairs:
    """Return k eigenpairs of each operator.

    Parameters
    ----------
    start
        (n, d) start vectors.  Rows share the sizes of their spaces, so that the company of a row changes its result,
        but only within the residuals asked for.
    subspace
        Size m of a Krylov space, k + 3 <= m <= d; None is `default_subspace`.
    tol
        A pair is done when its estimated residual is below tol |value| (below tol eps^(2/3) of the operator's size for
        values that are zero to rounding); one for all rows, or (n,).
    max_products
        Products after which a row is given up; one for all rows, or (n,).

    Notes
    -----
    A restart keeps the half of the Krylov-Schur space nearest to what is wanted, cut between pairs, by reordering the
    real Schur form (LAPACK dtrsen): orthonormal transformations only.  "near" selects by harmonic Ritz values, whose
    residual vector becomes the next basis vector, and reports Rayleigh quotients.  Every new vector meets the basis
    twice (classical Gram-Schmidt, two passes).  An exhausted space continues with a random vector;
    a value that occurs several times may be found fewer times, see `copied_pairs`.  Converged pairs
    stay in the kept half until their row is done; done rows leave the batch once a quarter of it is done.
    Memory: m + 1 vectors a row, and as many as are kept during a restart.

    References
    ----------
    G. W. Stewart, SIAM J. Matrix Anal. Appl. 23 (2001) 601; R. B. Morgan and M. Zeng, Linear Algebra Appl. 415 (2006)
    96 (harmonic restarts); L. Giraud et al., Comput. Math. Appl. 50 (2005) 1069 (two passes).
    """
    n, d = start.shape
    m = min(default_subspace(k) if subspace is None else subspace, d)
    if not 1 <= k <= m - 3:
        raise ValueError(f"k must be between 1 and {m - 3} for a subspace of {m}, got {k}")
    value = np.full((n, k + 1), np.nan + 0j)
    vector = start.new_zeros(n, k + 1, d)
    products, scale = np.zeros(n, int), np.zeros(n)
    tol, most = np.broadcast_to(tol, n), np.broadcast_to(max_products, n)
    rows = torch.arange(n, device=start.device)  # rows still in the batch
    working = operator
    space = KrylovSpace(start, m)
    alive = np.ones(n, bool)  # of the batch, not yet done
    spent = 0
    while True:
        spent += space.expand(working)
        for i in map(int, np.flatnonzero(alive)):
            ritz = Ritz(*space.projected(i), order)
            count, row = ritz.whole(k), int(rows[i])
            scale[row] = max(scale[row], ritz.scale)
            if ritz.done(count, tol[row], space.epsilon) or spent + m > most[row]:
                value[row, :count] = ritz.values[:count]
                vector[row, :count] = space.combine(i, ritz.real_vectors(count))
                products[row], alive[i] = spent, False
                space.retire(i)
            else:
                space.restart(i, *ritz.restart(ritz.whole(k + (space.size[i] - k) // 2, spare=2)))
        if not alive.any():
            break
        if alive.sum() <= 0.75 * len(alive):
            keep = torch.as_tensor(np.flatnonzero(alive), device=start.device)
            rows, working, space = rows[keep], working.select(keep), space.select(keep)
            alive = np.ones(len(keep), bool)
    absolute, extra = certify(operator, value, vector)
    residual = relative(absolute, value, scale, space.epsilon)
    return Pairs(value, vector, residual, absolute, scale, products + extra)


def default_subspace(k: int) -> int:
    """Return the number of Krylov vectors used for k eigenpairs."""
    return max(32, 2 * k + 16)


def certify(operator: Operator, value: np.ndarray, vector: Tensor) -> tuple[np.ndarray, int]:
    """Return ||A v - value v|| / ||v|| of pairs as in `Pairs`, (n, k + 1), and the products this took."""
    n, k, _ = vector.shape
    used = int((~np.isnan(value)).any(0).sum())
    image = torch.stack([operator(vector[:, j].contiguous()) for j in range(used)], dim=1)
    over = power_of_two(image)[:, None]
    v, w = vector[:, :used].double(), image.double() / torch.as_tensor(over, device=image.device)[..., None]
    lam = torch.as_tensor(np.nan_to_num(value[:, :used] / over), device=vector.device)
    pair = lam.imag > 0
    after = torch.zeros_like(pair)
    after[:, 1:] = pair[:, :-1]  # the second member holds the imaginary part
    other_v, other_w = torch.roll(v, -1, 1), torch.roll(w, -1, 1)
    real = w - lam.real[..., None] * v
    real = torch.where(pair[..., None], real + lam.imag[..., None] * other_v, real)
    imag = other_w - lam.real[..., None] * other_v - lam.imag[..., None] * v
    square = real.square().sum(2) + torch.where(pair, imag.square().sum(2), 0.0)
    length = v.square().sum(2) + torch.where(pair, other_v.square().sum(2), 0.0)
    left = (square / length.clamp(min=1e-300)).sqrt()
    out = np.full((n, k), np.nan)
    out[:, :used] = torch.where(after, torch.roll(left, 1, 1), left).cpu().numpy() * over
    out[np.isnan(value)] = np.nan
    return out, used


def relative(absolute: np.ndarray, value: np.ndarray, scale: np.ndarray, epsilon: float) -> np.ndarray:
    """Return residuals (n, k) over the moduli of their values, of an operator of size `scale` (n,).

    A value that is zero to rounding has no relative residual: below eps^(2/3) of the operator's size that is divided
    by instead, and the size itself where the residual is rounding too, so that the zeros of a singular operator are
    known as well as they can be.
    """
    size = scale[:, None]
    small = np.abs(value) < epsilon ** (2 / 3) * size
    rounding = small & (absolute <= ROUNDING * epsilon * size)
    over = np.where(rounding, size, np.maximum(np.abs(value), epsilon ** (2 / 3) * size))
    return np.where(absolute == 0, 0.0, absolute / np.where(over > 0, over, 1.0))


class Ritz:
    """Ritz values and vectors of A V = V S + u b^T, in the order wanted."""

    def __init__(self, S: np.ndarray, b: np.ndarray, order: Order):
        self.S, self.b, self.order = S, b, order
        self.g = np.zeros(len(b))
        self.scale = float(np.linalg.norm(S, 2)) if len(S) else 0.0
        if order.kind == "near":
            shifted = S.T - order.target * np.eye(len(S))
            self.g = np.linalg.lstsq(shifted, b, rcond=None)[0]
        self.matrix = S + np.outer(self.g, b)
        values, vectors = np.linalg.eig(self.matrix)
        values = values.astype(complex)
        first = order(values)
        self.raw, self.y = values[first], vectors[:, first].astype(complex)
        self.values = self.raw
        if order.kind == "near":  # Rayleigh quotients
            self.values = np.einsum("ij,ij->j", self.y.conj(), S @ self.y)

    def whole(self, count: int, spare: int = 0) -> int:
        """Return `count`, or one more where it would cut a pair (one less where that leaves fewer than `spare`)."""
        if count < len(self.raw) and self.raw[count - 1].imag > 0:
            return count + 1 if count + 1 <= len(self.raw) - spare else count - 1
        return min(count, len(self.raw))

    def done(self, count: int, tol: float, epsilon: float) -> bool:
        y = self.y[:, :count]
        outside = np.abs(self.b @ y)
        inside = np.linalg.norm(self.S @ y - y * self.values[:count], axis=0) if self.g.any() else 0.0
        size = np.maximum(np.abs(self.values[:count]), epsilon ** (2 / 3) * self.scale)
        return bool((np.hypot(outside, inside) <= tol * size).all())

    def real_vectors(self, count: int) -> np.ndarray:
        """Return (s, count): eigenvectors of real values, real and imaginary part for the members of a pair."""
        columns = self.y[:, :count].real.copy()
        second = np.flatnonzero(self.raw[:count].imag < 0)
        columns[:, second] = -self.y[:, second].imag  # the first member's imaginary part
        return columns

    def restart(self, keep: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the new S and b, and the coefficients (s + 1, keep + 1) of the new basis in the old one and u."""
        T, Z = scipy.linalg.schur(self.matrix, output="real")
        chosen = np.zeros(len(T), np.int32)
        values = _schur_values(T)
        wanted = self.order(values)[:keep]
        if values[wanted[-1]].imag > 0:  # rounding may sort these values otherwise than the Ritz values
            keep -= 1
        chosen[wanted[:keep]] = 1
        T, Z, *_, info = scipy.linalg.lapack.dtrsen(chosen, T, Z, job=b"N")
        if (
            info
        ):  # a reordering too ill-conditioned to be carried out: an orthonormal basis of the eigenvectors
            Z = np.linalg.qr(self.real_vectors(keep))[0]
            T = Z.T @ self.matrix @ Z
        Q, T = Z[:, :keep], T[:keep, :keep]
        inside, b = Q.T @ self.g, Q.T @ self.b
        outside = self.g - Q @ inside
        length = np.sqrt(1 + outside @ outside)
        basis = np.zeros((len(self.b) + 1, keep + 1))
        basis[:-1, :keep], basis[:-1, keep], basis[-1, keep] = Q, -outside / length, 1 / length
        return T - np.outer(inside, b), length * b, basis


def _schur_values(T: np.ndarray) -> np.ndarray:
    """Return the eigenvalues on the diagonal of a real Schur form, conjugates exact."""
    values = np.diag(T).astype(complex)
    low = np.diag(T, -1)
    for i in np.flatnonzero(low):
        imag = np.sqrt(abs(T[i, i + 1])) * np.sqrt(abs(low[i]))
        values[i], values[i + 1] = complex(T[i, i], imag), complex(T[i, i], -imag)
    return values


class KrylovSpace:
    """Orthonormal bases of n Krylov spaces of up to m vectors, with the projected operators.

    Products are divided by powers of two, so that squares of their lengths stay within the range of the dtype.
    """

    def __init__(self, start: Tensor, m: int):
        n, d = start.shape
        self.m = m
        self.epsilon = float(torch.finfo(start.dtype).eps)
        self.V = start.new_zeros(n, m + 1, d)
        self.V[:, 0] = start / start.norm(dim=1, keepdim=True)
        self.H = np.zeros((n, m + 1, m))
        self.size = np.zeros(n, int)
        self.largest = start.new_zeros(n)  # image of a unit vector, over that power of two
        self.over: np.ndarray | None = None  # (n,), from the first product on

    def select(self, rows: Tensor) -> KrylovSpace:
        other = object.__new__(KrylovSpace)
        other.m, other.epsilon = self.m, self.epsilon
        other.V, other.largest = self.V[rows], self.largest[rows]
        here = rows.cpu().numpy()
        other.H, other.size = self.H[here], self.size[here]
        other.over = None if self.over is None else self.over[here]
        return other

    def expand(self, operator: Operator, most: int | None = None) -> int:
        """Grow every space until the largest has `most` vectors, m unless given; return the number of products."""
        each = torch.arange(len(self.V), device=self.V.device)
        count = (self.m if most is None else most) - int(self.size.max())
        for _ in range(count):
            j = torch.as_tensor(self.size, device=self.V.device)
            w = operator(self.V[each, j].contiguous())
            if self.over is None:
                self.over = power_of_two(w)
            w = w * column(1 / self.over, w)
            self.largest = torch.maximum(self.largest, w.norm(dim=1))
            w, h, length = orthogonalise(self.V[:, : int(self.size.max()) + 1], w)
            broken = length <= 10 * self.epsilon * self.largest
            if broken.any():
                w = torch.where(broken[:, None], self.fresh(), w)
            w = w / torch.where(broken, 1.0, length)[:, None]
            length = torch.where(broken, 0.0, length)
            self.V[each, j + 1] = w
            rows, last = np.arange(len(self.H)), self.size
            self.H[rows, : h.shape[1], last] = h.cpu().double().numpy() * self.over[:, None]
            self.H[rows, last + 1, last] = length.cpu().double().numpy() * self.over
            self.size = self.size + 1
        return count

    def fresh(self) -> Tensor:
        """Return unit vectors (n, d) orthogonal to the bases; zero where a basis spans everything."""
        generator = torch.Generator().manual_seed(1 + int(self.size.max()))
        fill = torch.randn(self.V.shape[2], generator=generator).to(self.V).expand(len(self.V), -1)
        rest, _, length = orthogonalise(self.V, fill)
        spanned = length <= self.epsilon**0.5 * fill.norm(dim=1)
        return torch.where(spanned[:, None], 0.0, rest / torch.where(spanned, 1.0, length)[:, None])

    def projected(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Return S (s, s) and b (s,) of row i."""
        s = self.size[i]
        return self.H[i, :s, :s], self.H[i, s, :s]

    def combine(self, i: int, coefficients: np.ndarray) -> Tensor:
        """Return the vectors (count, d) with coefficients (s, count) in the basis of row i."""
        c = torch.as_tensor(coefficients.T, device=self.V.device, dtype=self.V.dtype)
        return c @ self.V[i, : c.shape[1]]

    def retire(self, i: int) -> None:
        """Empty the space of a row that is done, so that it waits for its removal without harm."""
        self.V[i, 1:], self.H[i], self.size[i] = 0, 0, 0

    def restart(self, i: int, S: np.ndarray, b: np.ndarray, basis: np.ndarray) -> None:
        p = len(S)
        kept = self.combine(i, basis)
        self.V[i, : p + 1] = kept
        self.V[i, p + 1 :] = 0
        self.H[i] = 0
        self.H[i, :p, :p], self.H[i, p, :p] = S, b
        self.size[i] = p


def orthogonalise(V: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Remove from w (n, d) its part in the orthonormal rows of V (n, m, d), in two passes.

    Returns
    -------
    The remainder (n, d), coefficients (n, m) and the remainder's length (n,).
    """
    h = torch.zeros(V.shape[:2], dtype=w.dtype, device=w.device)
    for _ in range(2):
        c = torch.bmm(V, w.unsqueeze(2))
        w = torch.baddbmm(w.unsqueeze(1), c.transpose(1, 2), V, alpha=-1).squeeze(1)
        h = h + c.squeeze(2)
    return w, h, w.norm(dim=1)


def power_of_two(block: Tensor) -> np.ndarray:
    """Return powers of two (rows,) near the largest entries of blocks (rows, ...), 1 where they vanish."""
    largest = block.flatten(1).abs().amax(1).cpu().double().numpy()
    limit = int(np.log2(torch.finfo(block.dtype).max)) - 3
    return np.ldexp(1.0, np.clip(np.frexp(largest)[1], -limit, limit))


def column(values: np.ndarray, like: Tensor) -> Tensor:
    """Return factors (rows,) in the shape that multiplies blocks (rows, ...)."""
    return torch.as_tensor(values).to(like).view(-1, *(1,) * (like.dim() - 1))
