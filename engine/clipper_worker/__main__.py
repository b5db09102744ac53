"""Starts a worker: ``python -m clipper_worker``, or by the path of this file.

By path it needs nothing installed, and puts nothing on ``sys.path``: the folder beside this package
may be the site-packages of another interpreter.
"""

import importlib.util
import os
import sys


def _find_own_package() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    if sys.path and os.path.abspath(sys.path[0]) == here:
        del sys.path[0]
    spec = importlib.util.spec_from_file_location(
        "clipper_worker", os.path.join(here, "__init__.py"), submodule_search_locations=[here]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["clipper_worker"] = module
    spec.loader.exec_module(module)


if __name__ == "__main__":
    if not __package__:
        _find_own_package()
    from clipper_worker.main import main

    sys.exit(main(sys.argv[1:]))
