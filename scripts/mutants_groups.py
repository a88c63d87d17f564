"""The modules that ``mutants.py`` changes, and their tests."""

from __future__ import annotations

from dataclasses import dataclass

COPIED = ("crm_provider", "tests", "scripts", "docs", "example_dags", "README.md", "CHANGELOG.md", "pyproject.toml")
"""The files and folders that the tests of the core need."""


@dataclass(frozen=True)
class Group:
    """Modules with the same tests.

    :param modules: paths below ``crm_provider/``
    :param tests: files, or tests in them
    :param too_slow: tests that search at random or start processes, and so take seconds for each mutant
    """

    name: str
    modules: tuple[str, ...]
    tests: tuple[str, ...]
    too_slow: tuple[str, ...] = ()


UNIT = "tests/unit"
LOAD = f"{UNIT}/load"
ENGINE = f"{LOAD}/test_job.py"
CHANGES = f"{LOAD}/test_changes.py"
LEASES = f"{UNIT}/test_rate_limit_leases.py"
ROSTER = f"{UNIT}/test_rate_limit_roster.py"
SCHEDULE = f"{UNIT}/test_rate_limit_schedule.py"
STORES = f"{UNIT}/test_rate_limit_stores.py"

_ANY_CHANGES = (f"{CHANGES}::test_changes_applied_to_the_old_copy_give_the_new_one",)

_ALL = (
    Group(
        "policy",
        ("errors/policy",),
        (
            f"{UNIT}/test_policy.py",
            f"{UNIT}/test_policy_table.py",
            f"{UNIT}/test_policy_cli.py",
            f"{UNIT}/test_suggest.py",
        ),
    ),
    Group(
        "answers",
        ("errors/exceptions", "errors/catalog", "client/responses"),
        (f"{UNIT}/test_errors.py", f"{UNIT}/test_catalog.py", f"{UNIT}/test_responses.py"),
    ),
    Group(
        "upsert",
        ("client/upsert", "client/remote_contact", "values/server_clock"),
        (
            f"{LOAD}/test_row_sender.py",
            f"{UNIT}/test_verify_write.py",
            f"{UNIT}/test_learned_order.py",
            f"{UNIT}/test_upsert.py",
            f"{UNIT}/test_client.py",
        ),
        (f"{UNIT}/test_client.py::test_no_sent_value_is_shown",),
    ),
    Group(
        "deletions",
        ("load/kinds/deletions", "load/kinds/remote_deletions"),
        (f"{LOAD}/test_deletions.py",),
    ),
    Group(
        "deals",
        ("load/kinds/deal_plan", "load/kinds/deal_sender", "load/kinds/remote_deals"),
        (f"{LOAD}/test_deal_plan.py", f"{LOAD}/test_deal_sender.py", f"{LOAD}/test_same_deals.py"),
    ),
    Group("outcome", ("tasks/outcome",), (f"{UNIT}/test_outcome.py",)),
    Group("waiting", ("waiting/backoff",), (f"{UNIT}/test_waiting_backoff.py",)),
    Group(
        "schedule",
        ("rate_limit/schedule",),
        (f"{UNIT}/test_rate_limit_schedule_steps.py", SCHEDULE),
        (
            f"{SCHEDULE}::test_all_of_the_budget_is_used_while_there_is_work",
            f"{SCHEDULE}::test_lanes_that_all_have_work_get_their_weighted_share",
            f"{SCHEDULE}::test_no_call_is_refused_if_a_caller_wakes_late_or_dies",
            f"{SCHEDULE}::test_one_token_is_left_for_the_jitter_of_the_way",
            f"{SCHEDULE}::test_waiting_asks_little",
            f"{SCHEDULE}::test_whatever_the_state_says_a_caller_gets_a_slot_within_seconds",
        ),
    ),
    Group(
        "pacing",
        ("rate_limit/limiter", "rate_limit/host_file", "rate_limit/redis"),
        (
            f"{UNIT}/test_rate_limit_limiter.py",
            f"{UNIT}/test_rate_limit_budget.py",
            f"{UNIT}/test_rate_limit_host_file.py",
            f"{UNIT}/test_rate_limit_redis.py",
            STORES,
        ),
        (f"{STORES}::test_processes_that_are_killed_all_the_time_neither_break_the_rate_nor_stop_the_others",),
    ),
    Group(
        "hosts",
        ("rate_limit/roster", "rate_limit/leases"),
        (ROSTER, LEASES, f"{UNIT}/test_rate_limit_offset.py"),
        (f"{ROSTER}::test_any_json_is_a_plan",),
    ),
    Group(
        "plan",
        ("load/planner",),
        (f"{LOAD}/test_planner.py", f"{LOAD}/test_plan_costs.py"),
    ),
    Group(
        "endings",
        ("load/row_results", "load/report"),
        (f"{LOAD}/test_row_results.py", f"{LOAD}/test_load_end.py", f"{LOAD}/test_decide_row.py"),
    ),
    Group(
        "books",
        ("load/state/checkpoint", "load/progress"),
        (
            f"{LOAD}/test_checkpoint.py",
            f"{LOAD}/test_hostile_state.py::test_an_impossible_part_is_refused",
            f"{LOAD}/test_hostile_state.py::test_a_missing_part_is_refused",
            f"{LOAD}/test_preflight_and_progress.py",
            f"{LOAD}/test_load_progress.py",
            f"{LOAD}/test_load_try.py",
            ENGINE,
        ),
    ),
    Group(
        "extract",
        ("extract/extractor", "extract/reader"),
        (f"{LOAD}/test_extract_stats.py", f"{LOAD}/test_extract.py", f"{LOAD}/test_typed_extracts.py", CHANGES),
        (f"{LOAD}/test_typed_extracts.py::test_a_load_makes_the_same_contacts_of_it", *_ANY_CHANGES),
    ),
    Group(
        "loop",
        ("load/dispatch", "load/workers", "load/state/temp_tables"),
        (
            f"{LOAD}/test_dispatch.py",
            f"{LOAD}/test_workers.py",
            f"{LOAD}/test_staged_rows.py",
            f"{LOAD}/test_contact_cache.py",
            f"{LOAD}/test_row_sender.py",
        ),
    ),
    Group(
        "run",
        ("load/job",),
        (f"{LOAD}/test_load_try.py", f"{LOAD}/test_full_disk.py", f"{LOAD}/test_rare_ends.py", ENGINE),
    ),
    Group(
        "known",
        ("load/state/fingerprints", "files/fingerprints"),
        (f"{LOAD}/test_fingerprints.py",),
        (f"{LOAD}/test_fingerprints.py::test_killed_at_any_byte_never_wrongly_unchanged",),
    ),
)

GROUPS = {group.name: group for group in _ALL}
"""The groups by name, in the order of the damage that a mistake there would cause."""
