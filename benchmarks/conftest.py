"""What every benchmark writes beside its times: machine, versions, what was built."""

from typing import Any

from dna_fast.about import facts


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    machine_info.clear()  # the plugin's own record names the host
    machine_info.update(facts())
