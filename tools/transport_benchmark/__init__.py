"""The parts of ``tools/benchmark_transport.py``: ``accuracy``, ``bias``, ``speed`` and the ``peers`` that it is compared with."""
