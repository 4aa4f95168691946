from tests.gateway.conftest import client as client
