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
OUTCOMES = f"{LOAD}/test_outcomes_file.py"
SUPPRESSION = f"{LOAD}/test_suppression.py"
POLICY = f"{UNIT}/test_policy"
LIMIT = f"{UNIT}/test_rate_limit"
LEASES = f"{LIMIT}_leases.py"
ROSTER = f"{LIMIT}_roster.py"
SCHEDULE = f"{LIMIT}_schedule.py"
STORES = f"{LIMIT}_stores.py"
BUDGETS = f"{UNIT}/test_shared_budget.py"

_ANY_CHANGES = (
    f"{CHANGES}::test_changes_applied_to_the_old_copy_give_the_new_one",
    f"{CHANGES}::test_each_change_is_in_the_table_once_despite_repeats_and_kills",
)

_ALL = (
    Group(
        "policy",
        ("errors/policy",),
        (f"{POLICY}.py", f"{POLICY}_table.py", f"{POLICY}_cli.py", f"{UNIT}/test_suggest.py"),
    ),
    Group("on_error", ("errors/on_error",), (f"{POLICY}.py", f"{POLICY}_cli.py")),
    Group(
        "suppression", ("load/suppression",), (SUPPRESSION,), (f"{SUPPRESSION}::test_everybody_on_the_list_is_found",)
    ),
    Group(
        "answers",
        ("errors/exceptions", "errors/catalog", "client/responses"),
        (f"{UNIT}/test_errors.py", f"{UNIT}/test_catalog.py", f"{UNIT}/test_responses.py", f"{UNIT}/test_body.py"),
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
    Group("deletions", ("load/kinds/deletions", "load/kinds/remote_deletions"), (f"{LOAD}/test_deletions.py",)),
    Group(
        "deals",
        ("load/kinds/deal_plan", "load/kinds/deal_sender", "load/kinds/remote_deals"),
        (f"{LOAD}/test_deal_plan.py", f"{LOAD}/test_deal_sender.py", f"{LOAD}/test_same_deals.py"),
    ),
    Group("outcome", ("tasks/outcome",), (f"{UNIT}/test_outcome.py", f"{UNIT}/test_outcome_log.py")),
    Group("waiting", ("waiting/backoff",), (f"{UNIT}/test_waiting_backoff.py",)),
    Group(
        "schedule",
        ("rate_limit/schedule",),
        (f"{LIMIT}_schedule_steps.py", SCHEDULE),
        (
            f"{SCHEDULE}::test_whole_budget_is_used_while_there_is_work",
            f"{SCHEDULE}::test_busy_lanes_get_their_weighted_share",
            f"{SCHEDULE}::test_no_call_is_refused_if_a_caller_wakes_late_or_dies",
            f"{SCHEDULE}::test_one_token_is_reserved_for_network_jitter",
            f"{SCHEDULE}::test_waiting_makes_few_requests",
            f"{SCHEDULE}::test_caller_gets_a_slot_within_seconds_in_any_state",
        ),
    ),
    Group(
        "pacing",
        ("rate_limit/limiter", "rate_limit/host_file", "rate_limit/redis"),
        (f"{LIMIT}_limiter.py", f"{LIMIT}_budget.py", f"{LIMIT}_host_file.py", f"{LIMIT}_redis.py", STORES, BUDGETS),
        (f"{STORES}::test_constantly_killed_processes_neither_break_the_rate_nor_stop_the_others",),
    ),
    Group(
        "hosts",
        ("rate_limit/roster", "rate_limit/leases", "rate_limit/offset"),
        (ROSTER, LEASES, f"{LIMIT}_leave.py", f"{LIMIT}_offset.py"),
        (f"{ROSTER}::test_any_json_is_a_plan",),
    ),
    Group("plan", ("load/planner",), (f"{LOAD}/test_planner.py", f"{LOAD}/test_plan_costs.py")),
    Group(
        "endings",
        ("load/row_results", "load/report"),
        tuple(f"{LOAD}/test_{name}.py" for name in ("row_results", "load_end", "decide_row", "report", "rare_ends")),
    ),
    Group(
        "books",
        ("load/state/checkpoint", "load/progress"),
        (
            f"{LOAD}/test_checkpoint.py",
            f"{LOAD}/test_hostile_state.py::test_invalid_field_is_refused",
            f"{LOAD}/test_hostile_state.py::test_missing_field_is_refused",
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
        (f"{LOAD}/test_typed_extracts.py::test_load_gives_the_same_contacts", *_ANY_CHANGES),
    ),
    Group("changes", ("extract/changes", "extract/columns"), (CHANGES, f"{LOAD}/test_columns.py"), _ANY_CHANGES),
    Group(
        "outcomes_file",
        ("load/outcomes/file", "load/outcomes/formats"),
        (OUTCOMES,),
        (f"{OUTCOMES}::test_keys_survive_a_round_trip",),
    ),
    Group("queries", ("transfers/sql_rows",), (f"{UNIT}/test_sql_values.py",)),
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
        (f"{LOAD}/test_fingerprints.py::test_kill_at_any_byte_never_leaves_a_wrong_unchanged",),
    ),
)

GROUPS = {group.name: group for group in _ALL}
"""The groups by name, in the order of the damage that a mistake there would cause."""
