"""There is no moment at which the API server answers and does not check."""

import threading
import urllib.error

from tests.harness.admission import Answer, decision
from tests.harness.admission_team import PolicedTeam


def test_an_api_server_that_starts_checks_from_its_first_answer_on(team: PolicedTeam) -> None:
    asked, answers, ended = team.approval(), list[Answer](), threading.Event()
    forged = {"spec": {"decision": decision(team.joe.name)}}

    def try_on() -> None:
        while not ended.is_set():
            try:
                answers.append(team.joe.merge(asked, forged))
            except (urllib.error.URLError, OSError, ValueError):
                # It does not listen yet, or answers with no object.
                ended.wait(0.01)

    team.cluster.api.pause()
    attempts = threading.Thread(target=try_on)
    attempts.start()
    try:
        team.cluster.api.resume()
        ended.wait(2)
    finally:
        ended.set()
        attempts.join()
    assert not any(answer.allowed for answer in answers)
    assert answers[-1].denial.startswith("spec.decision takes verb approve")
    assert "decision" not in team.read(asked)["spec"]
    assert team.pat.merge(asked, {"spec": {"decision": decision(team.pat.name)}}).allowed
