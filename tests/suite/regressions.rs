//! Stories that once ended badly, each under a name that says what broke.

use crate::support::harness::{Story, report};
use crate::support::park::Park;

fn replay(story: &Story) {
    if let Err(ending) = story.play(&mut Park::find(), None) {
        panic!("{}", report(None, story, &ending));
    }
}

#[test]
fn a_column_that_cannot_refuse_null_does_not_make_every_sync_write() {
    replay(&Story {
        majors: (15, 15),
        settle: "0s",
        tables: vec![2897],
        steps: vec![("sync_beside_writers", 72), ("set_not_null", 9589), ("delete", 9284)],
    });
}

#[test]
fn a_state_file_half_written_in_a_crash_is_gone_after_an_idle_sync() {
    replay(&Story {
        majors: (15, 15),
        settle: "50ms",
        tables: vec![799],
        steps: vec![("sync", 8084), ("drop_destination", 7072), ("sync_with_a_crash", 7551)],
    });
}

#[test]
fn versions_that_differ_in_a_dropped_column_only_are_not_one_version() {
    replay(&Story {
        majors: (13, 14),
        settle: "0s",
        tables: vec![2304, 4306],
        steps: vec![
            ("sync_beside_writers", 2323),
            ("sync_beside_writers", 9131),
            ("drop_column", 6669),
        ],
    });
}

#[test]
fn an_analyzed_partitioned_table_has_minus_one_page() {
    replay(&Story {
        majors: (15, 15),
        settle: "0s",
        tables: vec![2785],
        steps: vec![("rewrite", 8640)],
    });
}

#[test]
fn doubled_rows_that_are_to_be_marked_keep_no_repair_from_making_the_index() {
    replay(&Story {
        majors: (15, 15),
        settle: "0s",
        tables: vec![3437],
        steps: vec![("upsert", 107), ("damage_and_repair", 7609)],
    });
}

#[test]
fn what_was_lost_in_a_crash_is_only_what_the_sync_had_written() {
    replay(&Story {
        majors: (15, 15),
        settle: "50ms",
        tables: vec![4542],
        steps: vec![
            ("sync_full_refresh", 8492),
            ("lose_receipts_in_a_crash", 1498),
            ("rename_label", 1364),
            ("lose_files_in_a_crash", 2468),
        ],
    });
}

#[test]
fn a_snapshot_that_is_gone_is_told_in_other_words_by_eighteen() {
    replay(&Story {
        majors: (18, 13),
        settle: "50ms",
        tables: vec![5483, 8462, 3343],
        steps: vec![("sync_loses_its_sessions", 3750)],
    });
}

#[test]
fn nulls_in_a_key_stand_twice_where_no_index_refuses_them() {
    replay(&Story {
        majors: (17, 13),
        settle: "0s",
        tables: vec![576],
        steps: vec![
            ("drop_column", 7212),
            ("upsert", 387),
            ("damage_and_repair", 9747),
            ("upsert", 6690),
            ("damage_and_repair", 3971),
        ],
    });
}

#[test]
fn damage_doubles_no_version() {
    replay(&Story {
        majors: (16, 16),
        settle: "0s",
        tables: vec![333],
        steps: vec![
            ("load_again", 5975),
            ("damage_and_repair", 1976),
            ("insert", 9470),
            ("damage_and_repair", 1125),
            ("damage_and_repair", 6425),
        ],
    });
}

#[test]
fn a_damaged_state_file_remembers_nothing() {
    replay(&Story {
        majors: (15, 14),
        settle: "0s",
        tables: vec![2108],
        steps: vec![
            ("sync_beside_writers", 9339),
            ("damage_state_file", 7994),
            ("delete_receipt", 6534),
            ("create_again", 4046),
        ],
    });
}

#[test]
fn a_key_that_is_equal_and_written_in_another_way_is_no_extra_row() {
    replay(&Story {
        majors: (17, 16),
        settle: "0s",
        tables: vec![2951, 7605],
        steps: vec![("sync_beside_writers", 6046), ("verify", 1534), ("restart_source", 6695)],
    });
}

#[test]
fn a_row_that_changes_together_with_a_columns_name_is_not_taken_for_deleted() {
    replay(&Story {
        majors: (15, 15),
        settle: "50ms",
        tables: vec![2832, 6883],
        steps: vec![("sync_beside_writers", 9672), ("rename_column", 1020)],
    });
}

#[test]
fn an_old_snapshot_shows_rows_without_a_column_that_was_dropped_in_place() {
    replay(&Story {
        majors: (15, 15),
        settle: "50ms",
        tables: vec![2885],
        steps: vec![
            ("insert", 9764),
            ("sync_verify", 5594),
            ("drop_column", 8684),
            ("insert", 6685),
            ("sync_watched", 7681),
        ],
    });
}

#[test]
fn a_deleted_row_has_the_new_column_after_a_crash_as_well() {
    replay(&Story {
        majors: (15, 15),
        settle: "0s",
        tables: vec![2123],
        steps: vec![
            ("insert", 1),
            ("sync_verify", 2),
            ("delete", 3),
            ("add_column", 2697),
            ("sync_with_a_crash", 7677),
        ],
    });
}

#[test]
fn a_label_calls_for_no_copy_once_its_column_is_gone_after_a_crash() {
    replay(&Story {
        majors: (18, 18),
        settle: "0s",
        tables: vec![4107, 2537, 804],
        steps: vec![
            ("drop_column", 866),
            ("sync", 5426),
            ("rename_label", 8925),
            ("sync_with_a_crash", 7142),
            ("drop_column", 7944),
        ],
    });
}

#[test]
fn a_kept_row_whose_key_came_back_unfound_follows_a_dropped_column() {
    replay(&Story {
        majors: (15, 13),
        settle: "0s",
        tables: vec![2913],
        steps: vec![
            ("load_again", 2294),
            ("sync_jobs", 4466),
            ("load_again", 4964),
            ("insert", 4270),
            ("sync_loses_its_sessions", 9186),
            ("insert_old_key", 6622),
            ("drop_column", 4234),
        ],
    });
}

#[test]
fn labels_of_a_column_that_is_gone_call_for_no_copy_beside_another_enum() {
    replay(&Story {
        majors: (16, 13),
        settle: "50ms",
        tables: vec![9274, 6236, 1650],
        steps: vec![("change_type", 3758), ("sync", 9738), ("drop_column", 90)],
    });
}

#[test]
fn damage_is_not_pending_in_a_table_that_is_read_whole_once_more() {
    replay(&Story {
        majors: (16, 15),
        settle: "0s",
        tables: vec![2571],
        steps: vec![
            ("sync", 3313),
            ("load_again", 8321),
            ("work", 1267),
            ("damage_and_repair", 3649),
        ],
    });
}

#[test]
fn a_table_that_was_truncated_is_planned_as_it_is_synced() {
    replay(&Story {
        majors: (17, 13),
        settle: "50ms",
        tables: vec![9889],
        steps: vec![("plan_and_sync", 8517), ("truncate", 7451), ("plan_and_sync", 6579)],
    });
}

#[test]
fn a_state_file_does_not_outlive_the_copy_that_it_speaks_of() {
    replay(&Story {
        majors: (16, 17),
        settle: "50ms",
        tables: vec![1082],
        steps: vec![
            ("drop_not_null", 2549),
            ("exchange_columns", 9346),
            ("insert", 2237),
            ("lose_receipts_in_a_crash", 6273),
            ("exchange_columns", 5599),
        ],
    });
}

#[test]
fn a_part_that_was_new_is_noted_in_the_second_sync_and_in_no_later_one() {
    replay(&Story {
        majors: (15, 16),
        settle: "0s",
        tables: vec![834],
        steps: vec![("sync", 5653), ("upsert", 4289)],
    });
}

#[test]
fn a_row_below_a_view_that_is_loaded_again_with_an_old_key_need_not_be_found() {
    replay(&Story {
        majors: (17, 16),
        settle: "50ms",
        tables: vec![10154],
        steps: vec![
            ("update", 3215),
            ("drop_column", 5824),
            ("sync_beside_truncates", 1068),
            ("update_unique_columns", 3552),
            ("load_again", 6121),
            ("upsert", 3620),
        ],
    });
}

#[test]
fn rows_below_a_view_whose_keys_went_back_to_the_beginning_are_pending() {
    replay(&Story {
        majors: (13, 16),
        settle: "50ms",
        tables: vec![11858, 1614],
        steps: vec![
            ("insert_many", 7944),
            ("sync", 712),
            ("load_again", 3279),
            ("damage_and_repair", 2349),
        ],
    });
}
