"""What happens to engines when their process is idle, forks, is interrupted, ends, or lives long.

Each script runs in a process of its own with a time limit: what hangs, or writes to stderr, fails.
"""

import subprocess
import sys
import textwrap

import pytest

PRELUDE = """
import asyncio, gc, os, signal, sys, threading, time
import numpy as np
import clipper

def triple(batch):
    return 3 * batch

gate = threading.Event()

def gated(batch):
    gate.wait()
    return 3 * batch

def wait_until(condition, seconds=30.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.001)

def waiting_rows(model):
    return model.describe()["versions"]["1"]["waiting_rows"]

def deploy_gated(engine, **options):
    int64 = clipper.Tensor("int64")
    return engine.deploy("gated", gated, input=int64, output=int64, **options)
"""


def run(script: str, *, seconds: float = 60.0) -> str:
    """Run a script to its end; returns what it printed.

    Only the warning that a model has not returned may be on its stderr.
    """
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script)],
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "has not returned within" not in line]
    assert (done.returncode, said) == (0, []), done.stderr
    return done.stdout


def test_an_idle_engine_with_loaded_models_uses_under_one_percent_of_a_core() -> None:
    used = run("""
        engine = clipper.Engine()
        models = [engine.deploy(f"m{i}", triple, warmup=np.int64(0)) for i in range(20)]
        for model in models:  # each thread has been awake once
            assert model.submit(1, deadline=5.0).result().output == 3
            assert list(model.predict_many([1, 2]).output) == [3, 6]
        async def ask():
            await asyncio.gather(*(model.predict_async(1) for model in models))
        asyncio.run(ask())
        time.sleep(0.2)
        began = time.process_time()
        time.sleep(2.0)
        print((time.process_time() - began) / 2.0)
        engine.close()
    """)
    assert float(used) < 0.01


def test_an_interrupt_ends_a_waiting_predict_and_withdraws_its_row() -> None:
    printed = run("""
        seen = []

        def watch(batch):
            gate.wait()
            seen.extend(int(row) for row in batch)
            return batch

        engine = clipper.Engine()
        int64 = clipper.Tensor("int64")
        model = engine.deploy("watch", watch, input=int64, output=int64, caller_runs=False,
                              batching=clipper.Fixed(1))
        first = model.submit(1)
        wait_until(lambda: waiting_rows(model) == 0)  # it runs, and holds the replica
        def interrupt():
            wait_until(lambda: waiting_rows(model) == 1)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        try:
            model.predict(2)
        except KeyboardInterrupt:
            print("interrupted")
        gate.set()
        assert first.result().output == 1
        assert model.predict(3).output == 3
        print(seen, model.describe()["versions"]["1"]["outstanding_rows"])
        engine.close()
    """)
    assert printed.split("\n")[:2] == ["interrupted", "[1, 3] 0"]


def test_a_signal_handler_that_returns_lets_the_wait_go_on() -> None:
    assert "6 [2]" in run("""
        handled = []
        signal.signal(signal.SIGUSR1, lambda *_: (handled.append(2), gate.set()))
        engine = clipper.Engine()
        model = deploy_gated(engine, caller_runs=False)
        def send():
            wait_until(lambda: model.describe()["versions"]["1"]["arrived_rows"] == 1)
            time.sleep(0.05)
            os.kill(os.getpid(), signal.SIGUSR1)
        threading.Thread(target=send).start()
        print(model.predict(2).output, handled)
        engine.close()
    """)


def test_an_interrupt_while_a_caller_leads_comes_through_and_the_model_serves_on() -> None:
    assert (
        run("""
        busy = [False]

        def endless(batch):
            while busy[0]:
                pass
            return 3 * batch

        engine = clipper.Engine()
        model = engine.deploy("endless", endless, warmup=np.int64(0))
        wait_until(lambda: model.predict(1).output == 3)
        busy[0] = True
        threading.Timer(0.3, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
        try:
            model.predict(2)
        except KeyboardInterrupt:
            print("interrupted")
        busy[0] = False
        assert model.predict(3, deadline=30.0).output == 9
        assert model.describe()["versions"]["1"]["outstanding_rows"] == 0
        engine.close()
    """)
        == "interrupted\n"
    )


LEFT_BEHIND = {
    "an idle engine": """
        engine = clipper.Engine()
        assert engine.deploy("m", triple, warmup=np.int64(0)).predict(1).output == 3
    """,
    "two engines, one closed": """
        engines = [clipper.Engine(), clipper.Engine()]
        for engine in engines:
            engine.deploy("m", triple, warmup=np.int64(0))
        engines[0].close()
    """,
    "an engine that was dropped": """
        clipper.Engine().deploy("m", triple, warmup=np.int64(0)).predict(1)
        gc.collect()
    """,
    "pending futures of a model that never returns": """
        engine = clipper.Engine()
        model = deploy_gated(engine)
        futures = [model.submit(i, deadline=deadline) for i in range(10) for deadline in (None, 99)]
        futures[0].add_done_callback(lambda future: None)
    """,
    "a model that never lets go of the GIL": """
        def spin(batch):
            while True:
                pass
        engine = clipper.Engine()
        int64 = clipper.Tensor("int64")
        future = engine.deploy("spin", spin, input=int64, output=int64).submit(1)
    """,
    "daemon threads in the middle of asking": """
        engine = clipper.Engine()
        quick, stuck = engine.deploy("m", triple, warmup=np.int64(0)), deploy_gated(engine)
        def ask():
            while True:
                quick.predict(1)
        def wait():
            try:
                stuck.predict(1)
            except clipper.PredictionCancelledError:
                pass
        def ask_async():
            async def ask_for_ever():
                await asyncio.gather(stuck.predict_async(1), stuck.predict_async(2))
            try:
                asyncio.run(ask_for_ever())
            except clipper.PredictionCancelledError:
                pass
        for target in (wait, wait, ask_async):
            threading.Thread(target=target, daemon=True).start()
        wait_until(lambda: stuck.describe()["versions"]["1"]["arrived_rows"] == 4)
    """,
    "an event loop that was stopped in mid-query": """
        engine = clipper.Engine()
        model = deploy_gated(engine)
        loop = asyncio.new_event_loop()
        async def ask():
            answers = [model.predict_async(i) for i in range(3)]
            [answer.send(None) for answer in answers]
            return answers
        answers = loop.run_until_complete(ask())
        for answer in answers:
            answer.close()
        loop.close()
    """,
}


@pytest.mark.parametrize("left", LEFT_BEHIND)
def test_the_interpreter_ends_with(left: str) -> None:
    script = textwrap.dedent(LEFT_BEHIND[left]) + "print('end')\n"
    assert run(script, seconds=30.0) == "end\n"


def test_an_engine_made_before_a_fork_is_refused_in_the_child_and_lives_in_the_parent() -> None:
    assert (
        run("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads: on purpose
        engine = clipper.Engine()
        model = engine.deploy("m", triple, warmup=np.int64(0))
        future = model.submit(1)
        child = os.fork()
        if child == 0:
            refused = 0
            for ask in (lambda: model.predict(1), lambda: model.predict_many([1]),
                        lambda: model.submit(1), lambda: asyncio.run(model.predict_async(1)),
                        lambda: engine.deploy("n", triple, warmup=np.int64(0))):
                try:
                    ask()
                except clipper.ForkedEngineError as error:
                    refused += "each process" in str(error)
            engine.close()  # does nothing here
            del future, model, engine
            gc.collect()
            sys.exit(refused)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 5
        assert future.result().output == 3
        assert model.predict(2).output == 6
        engine.close()
        print("parent")
    """)
        == "parent\n"
    )


def test_each_forked_worker_can_have_an_engine_of_its_own() -> None:
    assert (
        run("""
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        shared = clipper.Engine()  # a master that warmed itself up before it forks its workers
        shared.deploy("m", triple, warmup=np.int64(0)).predict(1)
        def work(number):
            engine = clipper.Engine()
            model = engine.deploy("m", lambda b: b + number, warmup=np.int64(0))
            answers = [f.result().output for f in [model.submit(i) for i in range(100)]]
            async def ask():
                return [p.output for p in await asyncio.gather(*map(model.predict_async, range(9)))]
            ok = answers == [i + number for i in range(100)]
            ok = ok and asyncio.run(ask()) == [i + number for i in range(9)]
            if number % 2:  # the others leave it to the end of the process
                engine.close()
            sys.exit(0 if ok else 9)
        children = []
        for number in range(4):
            children.append(os.fork())
            if children[-1] == 0:
                work(number)
        print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
        shared.close()
    """)
        == "[0, 0, 0, 0]\n"
    )


def test_memory_is_flat_over_queries_that_are_answered_refused_expired_failed_and_dropped() -> None:
    grown = run("""
        import psutil

        def moody(batch):
            if (batch < 0).any():
                raise ValueError("below zero")
            return 3 * batch

        engine = clipper.Engine()
        model = engine.deploy("moody", moody, warmup=np.int64(0))

        def ask_all():
            gate.clear()
            # A new one each time: admission does not know yet that it will be stuck.
            stuck = deploy_gated(engine, max_queue=64, caller_runs=False, default=-1)
            holder = stuck.submit(0)  # holds the replica
            wait_until(lambda: waiting_rows(stuck) == 0)
            causes = set()
            for i in range(20_000):
                model.predict(i)
            for i in range(300):
                model.predict_many(np.arange(40))
                stuck.submit(i)  # dropped, and so withdrawn
                causes.add(stuck.predict(i, deadline=1e-4).why)
                causes.add(stuck.predict_many([i, i], deadline=1e-4).why[0])
                try:
                    model.predict(-1)
                except clipper.ModelError:
                    pass
            futures = [stuck.submit(i, deadline=0.05) for i in range(500)]
            causes.update(future.result().why for future in futures)
            async def ask():
                answers = [asyncio.ensure_future(stuck.predict_async(i)) for i in range(50)]
                await asyncio.sleep(0)
                await asyncio.gather(*(model.predict_async(i) for i in range(200)))
                for answer in answers:
                    answer.cancel()
            asyncio.run(ask())
            assert causes == {clipper.Cause.DEADLINE, clipper.Cause.OVERLOAD}, causes
            gate.set()
            assert holder.result().output == 0
            engine.undeploy("gated")

        def resident():
            gc.collect()
            return psutil.Process().memory_info().rss

        for _ in range(3):
            ask_all()
        before = resident()
        for _ in range(10):
            ask_all()
        print(resident() - before)
        engine.close()
    """, seconds=300.0)  # fmt: skip
    # 200,000 answered and 20,000 other queries: 4 MiB are less than 20 bytes for each.
    assert int(grown) < 4 << 20
