//! The reference that people read is the contract that programs are built from.

#[test]
fn the_reference_is_the_one_that_is_kept() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../rpc-router/api/REFERENCE.md");
    let now = contract::reference::reference();
    if std::env::var_os("POLLUX_BLESS").is_some() {
        std::fs::write(path, &now).expect("REFERENCE.md is written");
    }
    let kept = std::fs::read_to_string(path).expect("REFERENCE.md is there");
    assert!(
        kept == now,
        "{path} differs from the declarations in rpc-router/api/src: run this test with POLLUX_BLESS=1 and read the diff"
    );
}

#[test]
fn every_method_and_every_error_stands_in_it() {
    let text = contract::reference::reference();
    for method in pollux_api::contract::SERVICES
        .iter()
        .flat_map(|service| service.methods)
    {
        assert!(
            text.contains(&format!("### `{}`\n", method.name)),
            "{}",
            method.name
        );
    }
    for code in pollux_api::error::Code::ALL {
        assert!(
            text.contains(&format!("| {} | `{}` |", code.number(), code.name())),
            "{}",
            code.name()
        );
    }
    // A link of the text leads to a heading of the text.
    let headings: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("### ").or_else(|| line.strip_prefix("## ")))
        .map(|heading| heading.to_lowercase().replace(['`', '.'], "").replace(' ', "-"))
        .collect();
    for link in text
        .split("](#")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
    {
        assert!(
            headings.iter().any(|heading| heading == link),
            "#{link} leads nowhere"
        );
    }
}
