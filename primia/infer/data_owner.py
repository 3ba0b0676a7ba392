"""The data owner: fetches what a version needs, stocks sessions, asks. Only it learns answers.

What can be said about a film or an answer is returned, never logged.
"""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from primia.errors import (
    BudgetExhausted,
    IdentityError,
    PeerError,
    PrimiaError,
    StateError,
    Unreachable,
)
from primia.identity.certificate import Identity, Role, check_issued, fingerprint, from_pem
from primia.infer import home
from primia.infer.binding import DATA, Binding
from primia.infer.checking import dealt_for, opened_of
from primia.infer.data_store import Begun, DataStore
from primia.infer.engine import Engine, Given
from primia.infer.home import Own, plain
from primia.infer.speaking import counted
from primia.inference.messages import Prediction
from primia.inference.program import Integers, Node, Program, from_json
from primia.inference.weighted import HEAVY
from primia.storage.disk import DISK
from primia.types import Digest, sha256
from primia.wire.inference_client import DealerLink, ModelLink
from primia.wire.inference_handler import Batch, Description, Hello, Terms

_TRIES = 5
_WORD = 8  # bytes of a masked weight
_NAME = 512  # and what a file of tensors says of each, generously

Progress = Callable[[str, float], None]
"""What is being done, and which part of it is done (0 to 1)."""


@dataclass
class Phase:
    """What a part of the work took. sent, received: bytes at this data owner."""

    seconds: float = 0.0
    sent: int = 0
    received: int = 0
    messages: int = 0


@dataclass
class Costs:
    """Of one `ask` or `stock`. material: at the model owner, while we waited for it."""

    weights: Phase = field(default_factory=Phase)
    material: Phase = field(default_factory=Phase)
    online: Phase = field(default_factory=Phase)


class DataOwner:
    """One connection to a model owner. Use it in a `with`.

    notice: hears what a person should read once, such as the fingerprint of a new dealer.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        *,
        progress: Progress = lambda _what, _part: None,
        notice: Callable[[str], None] = lambda _text: None,
    ) -> None:
        """Open the folder and ask what is served. Raises what `describe` raises, StateError."""
        self._folder = folder
        self._engine = engine
        self._progress = progress
        self._notice = notice
        self.costs = Costs()
        self._own: Own = home.load(folder, Role.SITE)
        self.store = DataStore(folder)
        self._link: ModelLink | None = None
        self._given: Given | None = None  # read once, and hashed: 89 MB for a ResNet-18
        self._light: Given | None = None
        try:
            self._link = ModelLink(self._own.address, self._own.tls(Role.MODEL))
            self._description: Description = self._link.describe()
            self.program: Program = from_json(self._description.program)
            self._model = Identity(Role.MODEL, self.store.noted("model") or "")
            self._check_dealer()
            # Sessions of another version, or on other terms, are not there any more.
            same = self.store.noted("terms") in {None, str(self.terms)}
            self.store.note("terms", str(self.terms))
            lost = self.store.discard(keep=self.program.digest if same else None)
            if lost:
                self._notice(
                    "the model owner serves another model version, or on other terms, than before: "
                    f"{counted(lost, 'session')} stocked here had to be discarded; stock again: "
                    "primia infer stock N"
                )
            self.store.sweep()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        if self._link is not None:
            self._link.close()
        self.store.close()

    def __enter__(self) -> DataOwner:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def films_left(self) -> int:
        """Of our query budget, as the model owner counts it."""
        return self._description.films_left

    @property
    def most_films(self) -> int:
        """In one session."""
        return self._description.most_films

    @property
    def terms(self) -> Terms:
        """How the model owner wants predictions made."""
        return self._description.terms

    # --- the dealer is somebody whom we trust ourselves ------------------------------------------

    def _check_dealer(self) -> None:
        """Pin the dealer's certificate at first sight, or compare. Raises IdentityError.

        The model owner certifies the dealer, so its word alone must not be enough to change who
        deals for us: a model owner that deals for itself could look into films.
        """
        shown = self._description.dealer_certificate
        if not shown:
            return
        certificate = from_pem(shown)
        check_issued(certificate, self._own.authority, role=Role.DEALER, now=home.now())
        mark = fingerprint(certificate)
        pinned = self.store.noted("dealer")
        if pinned is None:
            self.store.note("dealer", plain(mark))
            self.store.audit.append("dealer_trusted", fingerprint=mark)
            self._notice(
                f"the dealer's certificate is pinned from now on; compare its fingerprint with the "
                f"dealer's operator by telephone: {mark}"
            )
        elif pinned != plain(mark):
            raise IdentityError(
                f"the model owner names a dealer with the certificate {mark}, not the one pinned "
                "here; ask the dealer's operator by telephone if it is theirs, then: primia infer "
                f"trust {mark}"
            )

    def _dealer_link(self) -> DealerLink:
        shown = self._description.dealer_certificate
        if not shown:
            raise Unreachable("the model owner has no dealer yet; ask its operator to invite one")
        return DealerLink(self._description.dealer, self._own.tls(Role.DEALER, shown))

    # --- once for each model version -----------------------------------------------------------

    def given(self, *, heavy: bool) -> Given:
        """The masked weights of this version, fetched once. Raises PeerError, StateError.

        heavy: those of convolutions and linear layers, too; where their products were made
        beforehand they are not needed.
        """
        cached = self._given if heavy else self._light
        if cached is not None:
            return cached
        path = self._folder / "given" / self._description.given
        began = time.monotonic()
        if not path.exists():
            self._fetch(path)
        wanted = {
            f"{node.name}.weight": shape
            for node, shape in self._weighted()
            if heavy or not isinstance(node.op, HEAVY)
        }
        data = path.read_bytes() if wanted else b""
        if wanted and sha256(data) != self._description.given:
            path.unlink()
            raise StateError(
                f"{path} was damaged on disk and is deleted; ask again, which fetches it anew"
            )
        try:
            found = load(data) if wanted else {}
        except SafetensorError as err:
            raise PeerError(f"the masked weights cannot be read ({err}); tell their owner") from err
        for name, shape in wanted.items():
            array = found.get(name)
            if array is None or array.dtype != np.uint64 or array.shape != shape:
                raise PeerError(
                    f"the masked weights do not fit the program at {name}; tell their owner"
                )
        self.costs.weights.seconds += time.monotonic() - began
        only = {name: found[name] for name in wanted}
        if heavy:
            self._given = only
        else:
            self._light = only
        return only

    def _weighted(self) -> Iterator[tuple[Node, tuple[int, ...]]]:
        shapes = self.program.weight_shapes()
        for node in self.program.nodes:
            if f"{node.name}.weight" in shapes:
                yield node, shapes[f"{node.name}.weight"]

    def _fetch(self, path: Path) -> None:
        assert self._link is not None
        size = self._description.given_size
        room = sum(_WORD * math.prod(shape) + _NAME for _, shape in self._weighted())
        if size > room + _NAME:
            raise PeerError(
                f"the masked weights are said to have {size} bytes, and the program has room for "
                f"{room}; nothing was fetched: tell the model owner's operator"
            )
        part = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            for old in path.parent.iterdir():
                if not old.name.startswith(path.name):  # another process may fetch the same
                    old.unlink(missing_ok=True)
            with part.open("xb") as file:
                self._link.fetch_given(
                    self._description.given,
                    size,
                    file,
                    lambda done: self._progress("fetching the masked weights", done / size),
                )
            part.rename(path)
            DISK.sync_folder(path.parent)
        except OSError as err:
            raise StateError(f"cannot write {path}: {err.strerror}; free space there") from err
        finally:
            part.unlink(missing_ok=True)
        self.costs.weights.received += size

    # --- sessions ------------------------------------------------------------------------------

    def stock(self, sessions: int, films: int = 1) -> int:
        """Have sessions dealt, checked and released; returns how many. Raises PrimiaError."""
        assert self._link is not None
        dealt = dealt_for(sessions)
        began = time.monotonic()
        batch = b""
        with self._dealer_link() as dealer:  # its certificate is judged before anything is dealt
            discarded = self.store.untold()
            for stage in self._link.stock(self.program.digest, dealt, films, discarded):
                self._progress("dealing", stage.sessions / dealt)
                self.costs.material.received = max(self.costs.material.received, stage.received)
                batch = stage.batch or batch
            if not batch:
                raise PeerError("the model owner's stream ended before its batch; stock again")
            self.store.told(discarded)
            collected = dealer.collect(batch)
        ours = (self.program.digest, self._model, films, dealt)
        theirs = (
            collected.program, collected.model, collected.films, len(collected.batch.sessions)
        )  # fmt: skip
        if ours != theirs:
            raise PeerError(
                "the dealer dealt for another program, model owner or number of films than we "
                "asked for; nothing of it is used: tell both operators"
            )
        self.store.hold(collected)
        try:
            self._open(collected.batch, films)
            self._work_ahead(batch, films)
        except PrimiaError:
            self.store.drop_held(batch)
            raise
        released = self.store.release(batch)
        self.costs.material.seconds += time.monotonic() - began
        return released

    def _open(self, batch: Batch, films: int) -> None:
        assert self._link is not None
        sessions = [s.session for s in batch.sessions]
        chosen = secrets.SystemRandom().sample(sessions, opened_of(len(sessions)))
        if chosen:
            self._progress("checking opened sessions", 0.0)
        binding = self._binding(batch.batch, films)
        shown = {
            session: binding.seed(seed, session, DATA)
            for session, seed in self.store.show(batch.batch, chosen).items()
        }
        self._link.open_sessions(batch.batch, shown)

    def _work_ahead(self, batch: bytes, films: int) -> None:
        """Multiply the masks of the films to come with the masked weights."""
        held = self.store.held(batch)
        given = self.given(heavy=True)
        binding = self._binding(batch, films)
        for done, (session, dealt) in enumerate(held.items()):
            self._progress("preparing", done / len(held))
            seed = binding.seed(dealt, session, DATA)
            products = self._engine.products(self.program, given, seed, films)
            self.store.keep_products(session, secrets.token_bytes(32), products)

    def _binding(self, batch: bytes, films: int) -> Binding:
        return Binding(
            self.program.digest, self._model, self._own.identity, batch, films, self.terms
        )

    # --- predictions ---------------------------------------------------------------------------

    def ask(self, films: Integers, batch: int) -> list[Prediction]:
        """The answers for `films` (n, channels, height, width), fixed point, `batch` at a time.

        Sessions come from the stock, or are dealt now. One prediction for each session, in order.
        Raises PrimiaError; what was answered before is lost then.
        """
        if len(films) > self.films_left:
            fewer = "ask about fewer, or " if self.films_left else ""
            raise BudgetExhausted(
                f"{counted(len(films), 'film')} to ask about, and this data owner's query budget "
                f"has room for {self.films_left}; {fewer}have the model owner raise it (primia "
                "infer budget)"
            )
        answers: list[Prediction] = []
        start = 0
        while start < len(films):
            begun = self._session(min(batch, self.most_films, len(films) - start))
            part = films[start : start + begun.films]
            answers.append(self._predict(begun, part))
            start += begun.films
            self._progress("asking", start / len(films))
        return answers

    def _session(self, films: int) -> Begun:
        """A session for `films` films, or for one where only such are stocked; else a new one."""
        stocked = self.store.stocked()
        program: Digest = self.program.digest
        singles = stocked.get((program, 1), 0) >= films
        for size in (films, 1) if singles else (films,):
            begun = self.store.begin(program, size)
            if begun is not None:
                return begun
        for _ in range(_TRIES):  # another process may begin what was dealt for this one
            try:
                self.stock(1, films)
            except Unreachable as err:
                raise Unreachable(
                    f"no session for {counted(films, 'film')} is stocked here, and none can be "
                    f"dealt now: {err}"
                ) from err
            begun = self.store.begin(program, films)
            if begun is not None:
                return begun
        raise StateError("other processes used all that was dealt for this one; ask again")

    def _predict(self, begun: Begun, films: Integers) -> Prediction:
        assert self._link is not None
        given = self.given(heavy=begun.key is None)
        online = self.costs.online
        began = time.monotonic()
        seed = self._binding(begun.batch, begun.films).seed(begun.seed, begun.session, DATA)
        hello = Hello(
            self.program.digest, begun.session, begun.number, begun.films, begun.discarded
        )

        def moved(sent: int, received: int) -> None:
            online.sent += sent
            online.received += received
            online.messages += 1

        taken = begun.taken
        ready = None if taken is None else taken.messages(begun.key or b"")
        try:
            answer = self._link.ask(
                hello,
                self._engine.data_party(
                    self.program, given, seed, films, ready, self.terms.profile
                ),
                on_accepted=lambda: self.store.told((begun.session, *begun.discarded)),
                on_bytes=moved,
            )
        except BaseException:
            self.store.give_up(begun.session)
            raise
        finally:
            if taken is not None:
                taken.close()
        online.seconds += time.monotonic() - began
        return answer
