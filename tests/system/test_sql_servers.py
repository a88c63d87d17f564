"""Queries of real databases as sources of loads, with each driver: exact values, streamed rows, invalid values."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from airflow.sdk import DAG, BaseHook

from crm_provider.load.rows import SourceError
from crm_provider.sandbox import Sandbox
from crm_provider.transfers.sql_rows import LARGEST_BATCH
from crm_provider.transfers.sql_to_crm import SqlToCrmContactsOperator

pytest.importorskip("airflow.providers.postgres", reason="the extra 'servers' is not installed")
pytestmark = [
    pytest.mark.crm_sandbox(seed="empty", rate=None),
    pytest.mark.filterwarnings("ignore:'(db|passwd)' is deprecated"),  # PyMySQL 2 deprecates the hook's arguments
]

DRIVERS = {
    "psycopg2": "postgres", "psycopg": "postgres",
    "MySQLdb": "mariadb", "pymysql": "mariadb", "mysql": "mariadb",
}  # fmt: skip
"""Top-level module of a driver -> the fixture of its server."""

Database = Any
RunTask = Callable[..., Any]


@pytest.fixture(params=DRIVERS)
def database(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Database:
    """The server of the connection ``db``, whose hook uses the driver of the parameter."""
    driver = request.param
    server = request.getfixturevalue(DRIVERS[driver])
    extra = {}
    if DRIVERS[driver] == "postgres":
        extra = {"options": "-c timezone=America/Sao_Paulo"}
        monkeypatch.setattr("airflow.providers.postgres.hooks.postgres.USE_PSYCOPG3", driver == "psycopg")
    elif driver == "mysql":
        extra = {"client": "mysql-connector-python"}
    elif driver == "pymysql":
        monkeypatch.setitem(sys.modules, "MySQLdb", pytest.importorskip("pymysql"))
    monkeypatch.setenv("AIRFLOW_CONN_DB", server.connection_json(**extra))
    connection = BaseHook.get_hook("db").get_conn()
    assert driver in {cls.__module__.partition(".")[0] for cls in type(connection).__mro__}
    connection.close()
    return server


@pytest.fixture
def run_task(run_dag: Callable[..., Any], crm_quick: Sandbox, tmp_path: Path) -> RunTask:
    """Load a query with ``run_task(sql, **arguments)``. The rejects are in ``rejects.jsonl``."""

    def run(sql: str, **arguments: Any) -> Any:
        with DAG("sql_servers", schedule=None, default_args={"retry_delay": timedelta(0)}) as dag:
            SqlToCrmContactsOperator(
                task_id="load", sql=sql, sql_conn_id="db", rejects_path=str(tmp_path / "rejects.jsonl"), **arguments
            )
        return run_dag(dag)["load"]

    return run


def rows_of(sql: str, **arguments: Any) -> Any:
    source = SqlToCrmContactsOperator(task_id="load", sql=sql, sql_conn_id="db", **arguments).open_source()
    return source.rows()


# -- types: each driver of a server leads to the same values in the CRM

VALUES: dict[str, dict[str, Any]] = {
    "postgres": {
        "12345678901234567.890::numeric": "12345678901234567.890",
        "1e30::numeric": "1000000000000000000000000000000",
        "12345678901234567::bigint": 12345678901234567,
        "0.1::float8": 0.1,
        "0.1::float4": 0.1,
        "'12.50'::money": "$12.50",
        "'[12345678901234567.89, 0.1, 12345678901234567, 1.50]'::jsonb": [
            "12345678901234567.89", 0.1, 12345678901234567, 1.5,
        ],
        "'[1e-20]'::json": [1e-20],
        "'2024-02-29 01:02:03.5'::timestamp": "2024-02-29T01:02:03.500",
        "'2024-02-29 01:02:03+02'::timestamptz": "2024-02-28T23:02:03Z",
        "'1890-01-01 00:00:00+00'::timestamptz": "1890-01-01T00:00:00Z",
        "'9999-12-31'::date": "9999-12-31",
        "'23:59:59.25'::time": "23:59:59.250000",
        "'23:59:00+02'::timetz": "23:59:00+02:00",
        "'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "'10.0.0.1'::inet": "10.0.0.1",
        "'10.0.0.1/24'::inet": "10.0.0.1/24",
        "'10.0.0.0/8'::cidr": "10.0.0.0/8",
        "'08:00:2b:01:02:03'::macaddr": "08:00:2b:01:02:03",
        "true": True,
        "B'101'": "101",
        "'vip'::tier": "vip",
        "'Zoë 😀 日本'": "Zoë 😀 日本",
        "ARRAY[1, NULL, 2]": [1, None, 2],
        "ARRAY[ARRAY['a'], ARRAY['b,c']]": [["a"], ["b,c"]],
        "ARRAY[12345678901234567.89]": ["12345678901234567.89"],
        "ARRAY['10.0.0.1'::inet]": ["10.0.0.1"],
        "ARRAY['a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::uuid]": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
        "ARRAY['2024-02-29'::date]": ["2024-02-29"],
        "ARRAY['vip'::tier]": "{vip}",
        "'[2024-01-01,infinity)'::daterange": "[2024-01-01,infinity)",
        "'{[1,3)}'::int4multirange": "{[1,3)}",
        "ROW(1, 'a')": "(1,a)",
        "(SELECT string_agg(name, ',') FROM pg_cursors WHERE name <> '')": "crm_load",
    },
    "mariadb": {
        "CAST('12345678901234567.890' AS DECIMAL(30, 3))": "12345678901234567.890",
        "12345678901234567": 12345678901234567,
        "CAST(18446744073709551615 AS UNSIGNED)": 18446744073709551615,
        "0.1e0": 0.1,
        "CAST(0.1 AS FLOAT)": 0.1,
        "CAST(NULL AS CHAR)": None,
        "CAST('2024-02-29' AS DATE)": "2024-02-29",
        "CAST('2024-02-29 01:02:03' AS DATETIME)": "2024-02-29T01:02:03",
        "CAST('2024-02-29 01:02:03.5' AS DATETIME(1))": "2024-02-29T01:02:03.500",
        "CAST('2024-02-29 01:02:03.123456' AS DATETIME(6))": "2024-02-29T01:02:03.123456",
        """CAST('{"a": 12345678901234567.89}' AS CHAR)""": '{"a": 12345678901234567.89}',
        "CONVERT('Zoë 😀 日本' USING utf8mb4)": "Zoë 😀 日本",
        "CAST('A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11' AS UUID)": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        "CAST('::1' AS INET6)": "::1",
        "TRUE": 1,
    },
}  # fmt: skip
"""Expression -> its attribute in the CRM; None if it has none."""

MARIADB_COLUMNS: dict[str, tuple[str, Any]] = {
    "BIT(1)": ("b'1'", 1),
    "BIT(10)": ("b'1000000001'", 513),
    "BOOLEAN": ("TRUE", 1),
    "YEAR": ("2024", 2024),
    "ENUM('free', 'vip')": ("'vip'", "vip"),
    "SET('a', 'b', 'c')": ("'c,a'", "a,c"),
    "JSON": ("""'{"a": 12345678901234567.89}'""", '{"a": 12345678901234567.89}'),
    "TIMESTAMP": ("'2024-02-29 01:02:03'", "2024-02-29T01:02:03"),
    "VARCHAR(9) CHARACTER SET latin1": ("'café'", "café"),
    "LONGTEXT": ("REPEAT('ä', 70)", "ä" * 70),
    "CHAR(3)": ("CHAR(0)", "\0"),
}
"""Column types without a literal expression -> literal and attribute."""

BAD: dict[str, dict[str, list[tuple[str, str]]]] = {
    "postgres": {
        "a value that Python cannot hold": [
            ("date", "'infinity'"), ("date", "'0044-03-15 BC'"), ("date", "'10000-01-01'"),
            ("timestamp", "'-infinity'"),
            ("timestamp", "'0044-03-15 00:00 BC'"), ("timestamptz", "'infinity'"), ("time", "'24:00'"),
            ("timetz", "'24:00+02'"), ("jsonb", f"'{'9' * 5000}'"),
        ],
        "a value of type Unreadable": [("date[]", "'{2024-02-29,infinity}'")],
        "a value of type timedelta": [("interval", "'1 month'")],
        "a binary value": [("bytea", r"'\x00ff'")],
        "not a finite number": [("numeric", "'Infinity'"), ("float8", "'-Infinity'")],
    },
    "mariadb": {
        "a value that Python cannot hold": [
            ("DATE", "'0000-00-00'"), ("DATE", "'2024-00-00'"), ("DATETIME", "'0000-00-00 00:00:00'"),
            ("DATETIME(3)", "'2024-02-00 00:00:00'"),
        ],
        "a value of type timedelta": [("TIME", "'838:59:59'"), ("TIME(2)", "'-01:02:03.5'")],
        "a binary value": [("BLOB", "x'00'"), ("VARBINARY(3)", "x'00ff'")],
    },
}  # fmt: skip
"""Reason of a reject -> types and literals of the values."""


def test_documented_database_values_are_tested() -> None:
    known = {("PostgreSQL", text): value for text, value in VALUES["postgres"].items()}
    known |= {("MariaDB", text): value for text, value in VALUES["mariadb"].items()}
    known |= {("MariaDB", f"{kind}` with `{text}"): value for kind, (text, value) in MARIADB_COLUMNS.items()}
    page = Path(__file__).parents[2].joinpath("docs", "load-sources.md").read_text("utf-8")
    table = page.partition("<!-- tested: database values -->")[2].partition("<!-- end -->")[0]
    shown = re.findall(r"^\| (PostgreSQL|MariaDB) \| `(.+)` \| `(.+)` \|$", table, re.MULTILINE)
    assert len(shown) == table.count("\n| ") - 2 > 10
    assert not [row for row in shown if known.get(row[:2]) != json.loads(row[2])]


@pytest.fixture(scope="module")
def tables(postgres: Any, mariadb: Any) -> None:
    """``odd`` has rows with one invalid value each, between two valid rows. ``typed`` has MARIADB_COLUMNS."""
    postgres.execute("CREATE TYPE tier AS ENUM ('free', 'vip')")
    for server, clauses in ((postgres, ()), (mariadb, ("SET sql_mode = ''",))):
        bad = [pair for pairs in BAD[server.conn_type.replace("mysql", "mariadb")].values() for pair in pairs]
        columns = ", ".join(f"c{n} {kind}" for n, (kind, _) in enumerate(bad))
        server.execute(
            *clauses,
            f"CREATE TABLE odd (id int, email varchar(50), {columns})",
            "INSERT INTO odd (id, email) VALUES (0, 'first@example.com')",
            *(f"INSERT INTO odd (id, email, c{n}) VALUES ({n + 1}, 'b{n}@example.com', {text})"
              for n, (_, text) in enumerate(bad)),
            f"INSERT INTO odd (id, email) VALUES ({len(bad) + 1}, 'last@example.com')",
        )  # fmt: skip
    mariadb.execute(
        f"CREATE TABLE typed ({', '.join(f't{n} {kind}' for n, kind in enumerate(MARIADB_COLUMNS))})",
        f"INSERT INTO typed VALUES ({', '.join(text for text, _ in MARIADB_COLUMNS.values())})",
    )


@pytest.mark.usefixtures("tables")
def test_each_driver_gives_the_same_values(
    database: Database, run_task: RunTask, crm_sandbox: Sandbox, tmp_path: Path
) -> None:
    kind = database.conn_type.replace("mysql", "mariadb")
    names = {f"c{n}": value for n, value in enumerate(VALUES[kind].values())}
    sql = "SELECT 'a@example.com' AS email, " + ", ".join(f"{text} AS c{n}" for n, text in enumerate(VALUES[kind]))
    if kind == "mariadb":
        sql = f"{sql}, typed.* FROM typed"
        names |= {f"t{n}": value for n, (_, value) in enumerate(MARIADB_COLUMNS.values())}
    end = run_task(sql)
    assert end.result["created"] == 1, (tmp_path / "rejects.jsonl").read_text("utf-8")[-3000:]
    found = crm_sandbox.store.contacts["a@example.com"].attributes
    assert found == {name: value for name, value in names.items() if value is not None}


@pytest.mark.usefixtures("tables")
def test_invalid_value_rejects_its_row(
    database: Database, run_task: RunTask, crm_sandbox: Sandbox, tmp_path: Path
) -> None:
    bad = BAD[database.conn_type.replace("mysql", "mariadb")]
    wanted = [problem for problem, pairs in bad.items() for _ in pairs]
    end = run_task("SELECT * FROM odd ORDER BY id", max_rejects="100%")
    assert end.states == ["success"]
    assert set(crm_sandbox.store.contacts) == {"first@example.com", "last@example.com"}
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text("utf-8").splitlines()]
    assert [line["row"] for line in lines] == list(range(2, len(wanted) + 2))
    assert [problem in line["message"] for line, problem in zip(lines, wanted, strict=True)] == [True] * len(wanted), (
        lines
    )
    texts = [literal.strip("'") for pairs in bad.values() for _, literal in pairs]
    assert not [text for text in texts if text in end.log]


# -- memory

LONG = {
    "postgres": "SELECT n || '@example.com' AS email, repeat('x', {bytes}) AS name FROM generate_series(1, {rows}) n",
    "mysql": "SELECT CONCAT(seq, '@example.com') AS email, REPEAT('x', {bytes}) AS name FROM seq_1_to_{rows}",
}


def test_large_result_is_streamed(database: Database) -> None:
    process = psutil.Process()
    rows = rows_of(LONG[database.conn_type].format(bytes=1_000_000, rows=200))
    next(rows)
    before = most = process.memory_info().rss
    for row in rows:
        most = max(most, process.memory_info().rss)
        assert len(row.values["name"]) == 1_000_000
    assert row.number == 200
    assert most - before < 80_000_000, "the result has 200 MB, of which at most 8 MiB are fetched at once"


def asked(database: Database, rows: int) -> Any:
    """A started result of this many MB, and a cursor and condition that show the server's part of it."""
    begun = rows_of(LONG[database.conn_type].format(bytes=1_000_000, rows=rows))
    next(begun)
    if database.conn_type == "postgres":
        return (
            begun,
            "pg_stat_activity WHERE state = 'idle in transaction' AND query LIKE 'FETCH FORWARD % \"crm_load\"'",
        )
    return begun, f"information_schema.processlist WHERE command = 'Query' AND info LIKE '% FROM seq_1_to_{rows}'"


def test_unfetched_rows_stay_on_the_server(database: Database) -> None:
    rows, sessions = asked(database, 101)
    with database.connect() as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {sessions}")
        assert cursor.fetchone() == (1,), "the server would be idle if the client had the complete result"
    rows.close()  # in the middle of the result


def test_lost_connection_is_not_the_end_of_the_result(database: Database) -> None:
    rows, sessions = asked(database, 102)
    with database.connect() as connection, connection.cursor() as cursor:
        if database.conn_type == "postgres":
            cursor.execute(f"SELECT pg_terminate_backend(pid) FROM {sessions}")
        else:
            cursor.execute(f"SELECT id FROM {sessions}")
            cursor.execute(f"KILL {cursor.fetchone()[0]}")
    with pytest.raises(Exception, match=r"(?i)terminat|lost|gone|closed"):
        list(rows)


def test_too_long_row_is_rejected(database: Database, run_task: RunTask, tmp_path: Path) -> None:
    sql = LONG[database.conn_type].format(bytes=f"CASE {{n}} WHEN 30 THEN {LARGEST_BATCH} ELSE 9 END", rows=40)
    end = run_task(sql.format(n="n" if database.conn_type == "postgres" else "seq"), max_rejects=1)
    assert (end.result["created"], end.result["rejected"]) == (39, 1)
    (line,) = (tmp_path / "rejects.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["row"] == 30
    assert "row 30 of the query has over 8,388,608 bytes" in json.loads(line)["message"]


# -- invalid queries

FAILING = {
    "postgres": "SELECT CASE n WHEN 3000 THEN 'secret' ELSE '1' END::int AS email FROM generate_series(1, 5000) AS n",
    "mysql": "SELECT CAST(1 AS UNSIGNED) - IF(seq = 3000, 4711, 0) AS email FROM seq_1_to_5000",
}


def test_query_error_ends_the_load_before_its_first_call(
    database: Database, run_task: RunTask, crm_sandbox: Sandbox
) -> None:
    end = run_task(FAILING[database.conn_type], retries=1)
    assert end.states == ["failed"]
    assert "the database cannot compute the query for a value" in str(end.error)
    assert not crm_sandbox.journal()
    assert not [
        secret for secret in ("secret", "4711", database.password) if secret in end.log.replace(FAILING["postgres"], "")
    ]


@pytest.mark.parametrize(
    "sql", ["SELECT 1 AS email; DROP TABLE kept", r"SELECT '\'; DROP TABLE kept; COMMIT; -- ' AS email"]
)
def test_query_with_a_second_statement_is_rejected(sql: str, database: Database) -> None:
    with pytest.raises(SourceError, match="statements; give one query"):
        rows_of(sql)


def test_dictionary_cursor_gives_the_same_rows(postgres: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_DB", postgres.connection_json(cursor="dictcursor", autocommit=True))
    assert [row.values for row in rows_of("SELECT 'a@example.com' AS email, 2 AS n")] == [
        {"email": "a@example.com", "n": 2}
    ]
