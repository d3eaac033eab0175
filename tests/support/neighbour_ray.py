"""Another Ray of this machine, with Ray's own defaults: ``python -m tests.support.neighbour_ray FOLDER``.

Answers each line of standard input with one line of JSON: what a task of its computes, and how many
nodes and named actors it knows. Ends with its standard input.
"""

from __future__ import annotations

import json
import os
import sys


def main() -> None:
    """Run until standard input ends."""
    # Its own token, so that nothing is written into the user's home.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    import ray

    ray.init(
        address="local",
        num_cpus=1,
        object_store_memory=80 << 20,
        include_dashboard=False,
        log_to_driver=False,
        _temp_dir=sys.argv[1],
    )

    def add(one: int, other: int) -> int:
        return one + other

    task = ray.remote(add)
    for line in sys.stdin:
        answer = {
            "sum": ray.get(task.remote(int(line), 1)),
            "nodes": len(ray.nodes()),
            "actors": len(ray.util.list_named_actors(all_namespaces=True)),
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    ray.shutdown()


if __name__ == "__main__":
    main()
