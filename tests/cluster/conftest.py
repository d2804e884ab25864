"""Tests on a real cluster run only when asked for: ``make test-cluster`` or ``test-cluster-api``.

A developer's KUBECONFIG may name anything, production too, so that it is set is not enough. Where
there is an API server and no node (``api``), what needs pods is left out.
"""

import os

ON_NODES = ["test_*_on_cluster.py"]
"""Tests that run pods."""

collect_ignore_glob = {"all": [], "api": ON_NODES}.get(
    os.environ.get("COSALIGN_TEST_CLUSTER", ""), ["test_*.py"]
)
