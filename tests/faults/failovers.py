"""What a storm does to a master with a replica and Sentinels."""

from __future__ import annotations

import signal
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType

import redis

from tests.sentinels import DEADLINE_S, Sentinels
from tests.servers import RedisServer, wait_until
from workers.bench.storm.schedule import Fault, Strike
from workers.bench.storm.table import client_kills

MASTER = "the master"


class Failovers:
    """The faults, and what follows on each in a thread of its own; a context manager that waits for that."""

    def __init__(self, sentinels: Sentinels) -> None:
        self._sentinels = sentinels
        self._executor = ThreadPoolExecutor(1)
        self._mending: Future[None] | None = None
        self._struck: RedisServer | None = None

    def __enter__(self) -> Failovers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    @property
    def faults(self) -> list[Fault]:
        """What may happen to the master."""
        targets = [MASTER]
        return [
            Fault("failovers", "gives way to its replica", targets, self._fail_over, rest_s=5.0),
            Fault("masters killed", "is killed, and away", targets, self._kill, self._mend, (0.5, 2.0), rest_s=4.0),
            Fault("masters frozen", "stands still", targets, self._freeze, self._thaw, (2.0, 3.0), rest_s=4.0),
            *client_kills(MASTER, lambda: self._master().client()),
        ]

    def heal(self) -> None:
        """Return once there are a master and its replica again."""
        if self._mending is not None:
            self._mending.result()
            self._mending = None

    def _fail_over(self, _: Strike) -> None:
        master = self._master()

        def begun() -> bool:
            with suppress(redis.ResponseError):  # Sentinels are not through with the one before
                self._sentinels.fail_over()
                return True
            return False

        def fail_over() -> None:
            wait_until("the Sentinels begin a failover", begun, DEADLINE_S)
            self._replace(master)

        self._start(fail_over)

    def _kill(self, _: Strike) -> None:
        self._struck = self._master()
        self._struck.kill()

    def _mend(self, _: Strike) -> None:
        struck = self._struck
        assert struck is not None
        self._start(lambda: self._replace(struck))

    def _freeze(self, _: Strike) -> None:
        self._struck = self._master()
        _signal(self._struck, signal.SIGSTOP)

    def _thaw(self, _: Strike) -> None:
        struck = self._struck
        assert struck is not None

        def thaw() -> None:
            try:
                self._await_other(struck)
            finally:
                _signal(struck, signal.SIGCONT)
            self._sentinels.mend()

        self._start(thaw)

    def _replace(self, master: RedisServer) -> None:
        self._await_other(master)
        self._sentinels.mend()

    def _await_other(self, master: RedisServer) -> None:
        wait_until("the replica takes over", lambda: self._sentinels.master is not master, DEADLINE_S)

    def _master(self) -> RedisServer:
        self.heal()
        return self._sentinels.master

    def _start(self, follow: Callable[[], None]) -> None:
        self.heal()
        self._mending = self._executor.submit(follow)


def _signal(server: RedisServer, number: signal.Signals) -> None:
    assert server.process is not None
    server.process.send_signal(number)
