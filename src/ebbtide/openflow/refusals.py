"""Error types and codes in words (OpenFlow 1.4.1 section 7.5.4; the same numbers in 1.3, which has fewer).

What lives here: names only, spelled as ``ovs-ofctl`` spells them without their OFP prefix, in lower case. What a
refusal means for a flow is decided by whoever sent the flow.
"""

from __future__ import annotations

from ebbtide.openflow.messages import Error

# Type: (name, names of its codes from 0 up).
TYPES: dict[int, tuple[str, str]] = {
    0: ("hello_failed", "incompatible eperm"),
    1: (
        "bad_request",
        "bad_version bad_type bad_multipart bad_experimenter bad_exp_type eperm bad_len buffer_empty buffer_unknown "
        "bad_table_id is_slave bad_port bad_packet multipart_buffer_overflow multipart_request_timeout "
        "multipart_reply_timeout",
    ),
    2: (
        "bad_action",
        "bad_type bad_len bad_experimenter bad_exp_type bad_out_port bad_argument eperm too_many bad_queue "
        "bad_out_group match_inconsistent unsupported_order bad_tag bad_set_type bad_set_len bad_set_argument",
    ),
    3: (
        "bad_instruction",
        "unknown_inst unsup_inst bad_table_id unsup_metadata unsup_metadata_mask bad_experimenter bad_exp_type "
        "bad_len eperm dup_inst",
    ),
    4: (
        "bad_match",
        "bad_type bad_len bad_tag bad_dl_addr_mask bad_nw_addr_mask bad_wildcards bad_field bad_value bad_mask "
        "bad_prereq dup_field eperm",
    ),
    5: (
        "flow_mod_failed",
        "unknown table_full bad_table_id overlap eperm bad_timeout bad_command bad_flags cant_sync bad_priority",
    ),
    6: (
        "group_mod_failed",
        "group_exists invalid_group weight_unsupported out_of_groups out_of_buckets chaining_unsupported "
        "watch_unsupported loop unknown_group chained_group bad_type bad_command bad_bucket bad_watch eperm",
    ),
    7: ("port_mod_failed", "bad_port bad_hw_addr bad_config bad_advertise eperm"),
    8: ("table_mod_failed", "bad_table bad_config eperm"),
    9: ("queue_op_failed", "bad_port bad_queue eperm"),
    10: ("switch_config_failed", "bad_flags bad_len eperm"),
    11: ("role_request_failed", "stale unsup bad_role"),
    12: (
        "meter_mod_failed",
        "unknown meter_exists invalid_meter unknown_meter bad_command bad_flags bad_rate bad_burst bad_band "
        "bad_band_value out_of_meters out_of_bands",
    ),
    13: ("table_features_failed", "bad_table bad_metadata bad_type bad_len bad_argument eperm"),
    14: (
        "bad_property",
        "bad_type bad_len bad_value too_many dup_type bad_experimenter bad_exp_type bad_exp_value eperm",
    ),
    15: ("async_config_failed", "invalid unsupported eperm"),
    16: (
        "flow_monitor_failed",
        "unknown monitor_exists invalid_monitor unknown_monitor bad_command bad_flags bad_table_id bad_out",
    ),
    17: (
        "bundle_failed",
        "unknown eperm bad_id bundle_exist bundle_closed out_of_bundles bad_type bad_flags msg_bad_len msg_bad_xid "
        "msg_unsup msg_conflict msg_too_many msg_failed timeout bundle_in_progress",
    ),
}

# ONF experimenter errors that take the place of type 17 in 1.3 (EXT-230; OVS include/openvswitch/ofp-errors.h).
_ONF = 0x4F4E4600
_ONF_BUNDLE = range(2300, 2316)
_CODES = {kind: codes.split() for kind, (_, codes) in TYPES.items()}

ROLE_REQUEST_FAILED, BUNDLE_FAILED = 11, 17
STALE = 0


def describe(error: Error) -> str:
    """An error in words, as ``bad_match/bad_prereq``; unknown numbers stay numbers."""
    if error.type == 0xFFFF:
        if error.experimenter == _ONF and error.code in _ONF_BUNDLE:
            return f"bundle_failed/{_CODES[BUNDLE_FAILED][error.code - _ONF_BUNDLE.start]}"
        return f"experimenter/{error.experimenter:#010x}/{error.code}"
    name = TYPES[error.type][0] if error.type in TYPES else str(error.type)
    codes = _CODES.get(error.type, [])
    return f"{name}/{codes[error.code] if error.code < len(codes) else error.code}"
