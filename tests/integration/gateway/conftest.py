"""A server with a data API, and a gateway that serves it; both real."""

import shutil
from collections.abc import Iterator

import pytest
from tests.harness import gateway_process, shop
from tests.harness.gateway_process import GatewayProcess
from tests.harness.postgrest import program
from tests.harness.slot import folder
from tests.harness.world import World


@pytest.fixture(scope="module")
def data_api(running: World) -> Iterator[None]:
    with shop.data_api(running):
        yield


@pytest.fixture(scope="module")
def gateway(running: World) -> Iterator[GatewayProcess]:
    place = folder()
    try:
        with gateway_process.running(
            GatewayProcess(place, running.api.kubeconfig, str(program("postgrest")))
        ) as started:
            yield started
    finally:
        shutil.rmtree(place, ignore_errors=True)
