//! What LVM says of a group: the JSON of `lvm fullreport`, as far as anything here is decided by it.

use serde::Deserialize;

/// What is asked of `lvm fullreport`; [`parse`] reads what comes back.
pub const COLUMNS: [&str; 23] = [
    "--reportformat",
    "json",
    "--units",
    "b",
    "--nosuffix",
    "--configreport",
    "vg",
    "-o",
    "vg_name,vg_systemid,vg_extent_size,vg_extent_count,vg_free_count,vg_missing_pv_count",
    "--configreport",
    "pv",
    "-o",
    "pv_name,pv_missing",
    "--configreport",
    "lv",
    "-a",
    "-o",
    "lv_name,lv_size,lv_active,lv_layout,lv_when_full,lv_skip_activation,lv_health_status",
    // The two others cannot be left out.
    "--configreport",
    "pvseg",
    "--configreport",
    "seg",
    "--foreign",
];

/// A volume group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vg {
    /// Its name.
    pub name: String,
    /// Whose it is, as LVM knows it.
    pub system_id: String,
    /// Bytes of an extent.
    pub extent_bytes: u64,
    /// Extents.
    pub extents: u64,
    /// Extents that nothing has.
    pub free_extents: u64,
    /// Disks of it that are not there.
    pub missing: u64,
    /// Nodes of those that are.
    pub present: Vec<String>,
    /// What is in it, hidden parts too.
    pub lvs: Vec<Lv>,
}

/// Something in a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lv {
    /// Its name, without the brackets of a hidden one.
    pub name: String,
    /// Bytes.
    pub bytes: u64,
    /// It stands in the kernel.
    pub active: bool,
    /// What it is made of: `thin,pool`, `raid,raid1`, `thin,sparse`, `linear`.
    pub layout: String,
    /// A thin pool that is full answers with errors at once, and holds nothing.
    pub error_when_full: bool,
    /// It is left out when the group is activated: a snapshot.
    pub skipped: bool,
    /// A part of it is on a disk that is not there.
    pub partial: bool,
}

impl Vg {
    /// Something in it, by its name.
    #[must_use]
    pub fn lv(&self, name: &str) -> Option<&Lv> {
        self.lvs.iter().find(|lv| lv.name == name)
    }
}

/// Why a report says nothing.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// It is no report.
    #[error("the report of lvm cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A figure is none.
    #[error("the report of lvm says {column} = {value:?}, which is no number")]
    Number {
        /// Where.
        column: &'static str,
        /// What stands there.
        value: String,
    },
    /// A part that belongs to a group is not there.
    #[error("the report of lvm has a part without a group")]
    Headless,
}

#[derive(Deserialize)]
struct Whole {
    report: Vec<Part>,
}

#[derive(Deserialize)]
struct Part {
    #[serde(default)]
    vg: Vec<VgRow>,
    #[serde(default)]
    pv: Vec<PvRow>,
    #[serde(default)]
    lv: Vec<LvRow>,
}

#[derive(Deserialize)]
struct VgRow {
    vg_name: String,
    vg_systemid: String,
    vg_extent_size: String,
    vg_extent_count: String,
    vg_free_count: String,
    vg_missing_pv_count: String,
}

#[derive(Deserialize)]
struct PvRow {
    pv_name: String,
    pv_missing: String,
}

#[derive(Deserialize)]
struct LvRow {
    lv_name: String,
    lv_size: String,
    lv_active: String,
    lv_layout: String,
    lv_when_full: String,
    lv_skip_activation: String,
    lv_health_status: String,
}

fn number(column: &'static str, value: &str) -> Result<u64, ReportError> {
    value.trim().parse().map_err(|_| ReportError::Number {
        column,
        value: value.to_owned(),
    })
}

/// Every group of a report.
///
/// # Errors
/// It is none, or a figure in it is none.
pub fn parse(text: &str) -> Result<Vec<Vg>, ReportError> {
    let whole: Whole = serde_json::from_str(text)?;
    let mut groups = Vec::new();
    for part in whole.report {
        let Some(row) = part.vg.into_iter().next() else {
            // Disks that belong to no group are a part of their own.
            match part.lv.is_empty() {
                true => continue,
                false => return Err(ReportError::Headless),
            }
        };
        let lv = |row: LvRow| {
            Ok::<_, ReportError>(Lv {
                bytes: number("lv_size", &row.lv_size)?,
                name: row.lv_name.trim_matches(['[', ']']).to_owned(),
                active: row.lv_active == "active",
                layout: row.lv_layout,
                error_when_full: row.lv_when_full == "error",
                skipped: !row.lv_skip_activation.is_empty(),
                partial: row.lv_health_status == "partial",
            })
        };
        groups.push(Vg {
            extent_bytes: number("vg_extent_size", &row.vg_extent_size)?,
            extents: number("vg_extent_count", &row.vg_extent_count)?,
            free_extents: number("vg_free_count", &row.vg_free_count)?,
            missing: number("vg_missing_pv_count", &row.vg_missing_pv_count)?,
            name: row.vg_name,
            system_id: row.vg_systemid,
            present: (part.pv.into_iter())
                .filter(|pv| pv.pv_missing.is_empty())
                .map(|pv| pv.pv_name)
                .collect(),
            lvs: part.lv.into_iter().map(lv).collect::<Result<_, _>>()?,
        });
    }
    Ok(groups)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    #[test]
    fn a_group_of_four_disks_is_read_as_lvm_wrote_it() {
        let groups = parse(include_str!("../tests/recorded/four-disks.json")).expect("a report");
        let [vg] = &groups[..] else {
            panic!("{groups:?}");
        };
        assert_eq!(
            (
                &*vg.name,
                &*vg.system_id,
                vg.extent_bytes,
                vg.extents,
                vg.free_extents,
                vg.missing
            ),
            ("pollux_0123", "pollux-a", 1 << 20, 2036, 198, 0)
        );
        assert_eq!((vg.present.len(), vg.lvs.len()), (4, 17));
        let pool = vg.lv("pool").expect("the pool");
        assert!(pool.active && pool.error_when_full && pool.layout == "thin,pool");
        assert_eq!(vg.lv("pool_tdata").expect("its data").layout, "raid,raid10");
        let snapshot = vg.lv("s_1").expect("a snapshot");
        assert!(snapshot.skipped && !snapshot.active, "{snapshot:?}");
        assert_eq!(vg.lv("v_1").expect("a volume").bytes, 65 << 20);
    }

    #[test]
    fn a_missing_disk_is_seen_and_no_group_is_none() {
        let groups = parse(include_str!("../tests/recorded/missing-disk.json")).expect("a report");
        assert_eq!((groups[0].missing, groups[0].present.len()), (1, 3));
        assert!(groups[0].lv("pool_tdata").expect("its data").partial);
        assert_eq!(parse(r#"{"report":[]}"#).expect("none"), []);
        assert!(matches!(parse("  Device not found"), Err(ReportError::Json(_))));
        let odd = include_str!("../tests/recorded/four-disks.json").replace("\"198\"", "\"198m\"");
        let error = parse(&odd).expect_err("no number").to_string();
        assert!(
            error.contains("vg_free_count") && error.contains("198m"),
            "{error}"
        );
    }
}
