"""Worker processes that compute runs; the death of one costs its own run, once."""

import multiprocessing
import signal
from collections import deque
from multiprocessing.connection import Connection, wait

import torch

from sae.jobs import Answer, Answers, Job, one_line

_SPAWN = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks
_PATIENCE = 3  # worker processes in a row that end before they are ready


def in_processes(job: Job, configs: dict[str, object], n_processes: int) -> Answers:
    """Yields each key with its answer, from worker processes with one torch thread each.

    The results are in the store. If a worker dies, its run is given to another, once, and the
    others go on. Whoever stops early closes the generator, which ends the workers.
    """
    waiting, died = deque(configs), set()
    workers: list[_Worker] = []
    n_stillborn = 0
    try:
        while waiting or any(worker.key for worker in workers):
            n_wanted = min(n_processes, len(waiting) + sum(bool(w.key) for w in workers))
            while len(workers) < n_wanted and n_stillborn < _PATIENCE:
                workers.append(_Worker(job))
            if not workers:
                hint = 'a script must guard its main part by if __name__ == "__main__"'
                raise RuntimeError(f"map_runs: worker processes end before they are ready; {hint}")
            for worker in _stirred(workers):
                message = worker.receive()
                if isinstance(message, Answer):
                    key, worker.key = worker.key, ""
                    yield key, message
                elif message == "ready":
                    worker.ready, n_stillborn = True, 0
                elif isinstance(message, str):
                    raise ValueError(f"map_runs: expected a function to import, got {message}")
                else:
                    workers.remove(worker)
                    n_stillborn += not worker.ready
                    if worker.key in died:
                        yield worker.key, Answer("failed", f"{worker.end()}, twice")
                    elif worker.key:
                        died.add(worker.key)
                        waiting.append(worker.key)
            for worker in workers:
                if worker.ready and not worker.key and waiting:
                    key = waiting.popleft()
                    refused = worker.give(key, configs[key])
                    if refused is not None:
                        yield key, refused
    finally:
        for worker in workers:
            worker.stop()


class _Worker:
    """A worker process, and the key of the run it is at (or "")."""

    def __init__(self, job: Job) -> None:
        self.connection, theirs = _SPAWN.Pipe()
        self.process = _SPAWN.Process(target=_work, args=(theirs, job))
        self.process.start()
        theirs.close()
        self.key, self.ready = "", False

    def give(self, key: str, config: object) -> Answer | None:
        """Sends it a run; an answer at once if the configuration cannot be sent."""
        try:
            self.connection.send(config)
        except OSError:  # it has just died: the next look at it will tell
            pass
        except Exception as error:
            return Answer("failed", f"it cannot be sent to a process: {one_line(error)}")
        self.key = key
        return None

    def receive(self) -> object:
        """Returns its message, or None if its process has ended."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):  # it has ended, perhaps within a message
            self.process.join(timeout=5)
            return None

    def end(self) -> str:
        """Returns how its process ended."""
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"its process was ended by signal {-code}" + " (out of memory?)" * (code == -9)
        return f"its process ended with code {code}"

    def stop(self) -> None:
        """Ends the process, also in the middle of a run."""
        self.connection.close()  # which an idle one takes for the end
        if self.key or not self.ready:
            self.process.terminate()
        self.process.join(timeout=5)
        self.process.kill()
        self.process.join()


def _stirred(workers: list[_Worker]) -> list[_Worker]:
    """Waits, and returns the workers that have said something or ended."""
    things = [thing for w in workers for thing in (w.connection, w.process.sentinel)]
    wait(things, timeout=1.0)  # children of a dead worker may keep both open: look now and then
    # In this order: who speaks and ends in between is heard.
    alive = [worker.process.is_alive() for worker in workers]
    stirs = [worker.connection.poll() for worker in workers]
    return [w for w, lives, stir in zip(workers, alive, stirs, strict=True) if stir or not lives]


def _work(connection: Connection, job: Job) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which stops us
    torch.set_num_threads(1)
    try:
        run = job.function_itself()
    except Exception as error:
        connection.send(f"{job.module}.{job.function} ({one_line(error)})")
        return
    connection.send("ready")
    while True:
        try:
            config = connection.recv()
        except EOFError:  # the parent is gone
            return
        except Exception as error:
            answer = Answer("failed", f"it cannot be read in a process: {one_line(error)}")
        else:
            answer = job.do(run, config)
        try:
            connection.send(answer)
        except OSError:  # the parent is gone; what was computed is stored
            return
