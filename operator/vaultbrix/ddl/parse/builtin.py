"""Functions and types of PostgreSQL's own that change nothing, by name. What is not here is taken for anything.

A test compares the lists with pg_proc and pg_type of a real server.
"""

from collections.abc import Sequence
from typing import Any


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# No overload in pg_catalog is volatile.
STABLE = _words(
    """
    abs age array_agg array_append array_cat array_dims array_length array_lower array_ndims array_position
    array_prepend array_remove array_replace array_to_json array_to_string array_upper ascii avg bit_and
    bit_length bit_or bool_and bool_or btrim cardinality cbrt ceil ceiling char_length character_length chr
    concat concat_ws convert convert_from convert_to corr count cume_dist current_database
    current_setting pg_get_serial_sequence pg_typeof
    current_schema current_schemas date_bin date_part date_trunc decode degrees dense_rank div encode every exp
    extract first_value floor format generate_series generate_subscripts hashtext host initcap
    int4range int8range isempty isfinite json_agg json_array_elements json_array_elements_text json_array_length
    json_build_array json_build_object json_each json_each_text json_extract_path json_extract_path_text
    json_object json_object_agg json_object_keys json_strip_nulls json_to_record json_to_recordset json_typeof
    jsonb_agg jsonb_array_elements jsonb_array_elements_text jsonb_array_length jsonb_build_array
    jsonb_build_object jsonb_each jsonb_each_text jsonb_extract_path jsonb_extract_path_text jsonb_insert
    jsonb_object jsonb_object_agg jsonb_object_keys jsonb_pretty jsonb_set jsonb_strip_nulls jsonb_to_record
    jsonb_to_recordset jsonb_typeof lag last_value lead left length ln log lower lower_inc lower_inf lpad ltrim
    make_date make_interval make_time make_timestamp make_timestamptz masklen max md5 min mod mode netmask
    network now nth_value ntile num_nonnulls num_nulls numrange octet_length overlay percent_rank
    percentile_cont percentile_disc phraseto_tsquery pi plainto_tsquery position power quote_ident quote_literal
    quote_nullable radians range_agg rank regexp_match regexp_matches regexp_replace regexp_split_to_array
    regexp_split_to_table repeat replace reverse right round row_number row_to_json rpad rtrim scale setweight
    sha224 sha256 sha384 sha512 sign split_part sqrt starts_with statement_timestamp stddev strip strpos
    string_agg string_to_array strpos substr substring sum timezone to_ascii to_char to_date to_hex to_json
    to_jsonb to_number to_regclass to_regtype to_timestamp to_tsquery to_tsvector transaction_timestamp
    translate trunc ts_headline ts_rank tsrange tstzrange daterange unnest upper upper_inc upper_inf var_pop
    variance version websearch_to_tsquery width_bucket
    """
)

# Volatile, and yet they change nothing that is there but a sequence's place.
VOLATILE = frozenset({"random", "gen_random_uuid", "clock_timestamp", "timeofday", "nextval", "currval", "lastval"})

# These change or remove what is stored.
DESTRUCTIVE = frozenset(
    {"setval", "lo_unlink", "lo_put", "lo_truncate", "lo_truncate64", "lowrite", "lo_from_bytea", "lo_import"}
)

TYPES = _words(
    """
    bit bool boolean box bpchar bytea char cidr circle date daterange datemultirange decimal float4 float8 inet
    int2 int4 int4range int4multirange int8 int8range int8multirange interval json jsonb jsonpath line lseg
    macaddr macaddr8 money name numeric numrange nummultirange oid path pg_lsn point polygon real regclass
    regtype text time timestamp timestamptz timetz tsquery tsrange tsmultirange tstzrange tstzmultirange
    tsvector uuid varbit varchar xml
    """
)

SERIAL = frozenset({"serial", "serial2", "serial4", "serial8", "smallserial", "bigserial"})


def _plain(name: Sequence[str]) -> str:
    """The last part of a name that may be pg_catalog's; empty for one of another schema."""
    return name[-1] if len(name) == 1 or (len(name) == 2 and name[0] == "pg_catalog") else ""


def is_stable(name: Sequence[str]) -> bool:
    """Whether a function gives one value within a statement."""
    return _plain(name) in STABLE


def is_harmless(name: Sequence[str]) -> bool:
    """Whether a function changes nothing."""
    return _plain(name) in STABLE | VOLATILE


def is_destructive(name: Sequence[str]) -> bool:
    """Whether a function of PostgreSQL's own changes what is stored."""
    return _plain(name) in DESTRUCTIVE


def is_type(type_name: Any) -> bool:
    """Whether a TypeName is a base type of PostgreSQL's own, which has neither constraint nor default."""
    return not type_name.pct_type and _plain([part.sval for part in type_name.names]) in TYPES


def is_serial(type_name: Any) -> bool:
    """Whether a TypeName stands for an integer with a sequence of its own."""
    return len(type_name.names) == 1 and type_name.names[0].sval in SERIAL
