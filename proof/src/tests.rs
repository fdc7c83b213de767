//! Certificates written by hand: what is accepted, and why the rest is not.

use crate::{ProofError, Tier, check, rules};

const GOOD: &str = "sparkc-proof 1
tier exact
graph main
t0 = given p0 : f32[1*T,8]
t1 = transpose t0 perm:1,0
t2 = transpose t1 perm:1,0
t3 = transpose t0 perm:0,1
t4 = exp t2
t5 = exp t0
before return t4
after return t5
step transpose-transpose t2 t3
step transpose-identity t3 t0
end
";

fn code(text: &str) -> &'static str {
    check(text).err().map_or("accepted", |e: ProofError| e.code())
}

#[test]
fn steps_and_congruence_prove_a_graph() {
    let checked = check(GOOD).expect("a proof");
    assert_eq!(checked.tier, Tier::Exact);
    assert_eq!((checked.graphs[0].steps, &checked.graphs[0].name[..]), (2, "main"));
    assert_eq!(checked.graphs[0].after, "0 = given p0 : f32[1*T,8] of\n1 = exp of 0\nreturn 1\n");
}

#[test]
fn each_way_to_be_wrong_has_its_code() {
    let changed = |from: &str, to: &str| code(&GOOD.replacen(from, to, 1));
    assert_eq!(changed("sparkc-proof 1", "sparkc-proof 2"), "SPK3301");
    assert_eq!(changed("tier exact", "tier fast"), "SPK3301");
    assert_eq!(changed("end\n", ""), "SPK3301");
    assert_eq!(changed("t4 = exp t2", "t4 = exp t9"), "SPK3301");
    assert_eq!(changed("t4 = exp", "t7 = exp"), "SPK3301");
    assert_eq!(changed("perm:1,0", "perm:1,1"), "SPK3302");
    assert_eq!(changed("t4 = exp t2", "t4 = matmul t2"), "SPK3302");
    assert_eq!(changed("step transpose-identity", "step by-magic"), "SPK3303");
    assert_eq!(changed("step transpose-identity t3 t0", "step silu t3 t0"), "SPK3304");
    assert_eq!(
        changed("step transpose-identity t3 t0", "step transpose-identity t1 t0"),
        "SPK3305"
    );
    assert_eq!(changed("step transpose-identity t3 t0", "step reshape-identity t3 t0"), "SPK3305");
    assert_eq!(changed("after return t5", "after return t5 t5"), "SPK3306");
    assert_eq!(changed("after return t5", "after cache_append t5"), "SPK3306");
    assert_eq!(changed("step transpose-identity t3 t0\n", ""), "SPK3307");
    assert_eq!(changed("after return t5", "after return t0"), "SPK3307");
    assert_eq!(code(""), "SPK3301");
}

#[test]
fn hostile_shapes_are_refused_not_computed() {
    let dims = ["9223372036854775807*T*T*T*T*T*T*T*T"; 8].join(",");
    let text = GOOD.replacen("f32[1*T,8]", &format!("f32[{dims}]"), 1);
    assert_ne!(code(&text), "accepted");
    let dims = vec!["2"; 4000].join(",");
    assert_eq!(code(&GOOD.replacen("f32[1*T,8]", &format!("f32[{dims}]"), 1)), "SPK3301");
}

/// `left` and `right` over p0 : f32[4,6] under a rule.
fn step(rule: &str, terms: &[&str], left: usize, right: usize) -> &'static str {
    let lines: String =
        terms.iter().enumerate().map(|(i, t)| format!("t{} = {t}\n", i + 1)).collect();
    code(&format!(
        "sparkc-proof 1\ntier lossy\ngraph g\nt0 = given p0 : f32[4,6]\n{lines}before return t{left}\n\
         after return t{right}\nstep {rule} t{left} t{right}\nend\n"
    ))
}

#[test]
fn views_are_equal_when_their_strides_are() {
    let chain = ["reshape t0 dims:4,2,3", "transpose t1 perm:1,2,0", "reshape t2 dims:6,4"];
    let with = |last: &'static str| [&chain[..], &[last]].concat();
    assert_eq!(step("reshape-chain", &with("transpose t0 perm:1,0"), 3, 4), "accepted");
    assert_eq!(step("reshape-chain", &with("reshape t0 dims:6,4"), 3, 4), "SPK3305");
    let other = ["reshape t0 dims:4,2,3", "transpose t1 perm:2,1,0", "reshape t2 dims:6,4"];
    let other = [&other[..], &["transpose t0 perm:1,0"]].concat();
    assert_eq!(step("reshape-chain", &other, 3, 4), "SPK3305");
}

#[test]
fn parts_of_concats_stand_where_they_stand() {
    let terms = |start: usize, end: usize| {
        let slice = format!("slice t1 axis:0 dim:{start} dim:{end}");
        ["concat t0 t0 axis:0".to_string(), slice, "slice t0 axis:0 dim:1 dim:3".to_string()]
    };
    let code = |start, end| {
        let terms = terms(start, end);
        let terms: Vec<&str> = terms.iter().map(String::as_str).collect();
        step("slice-of-concat", &terms, 2, 3)
    };
    assert_eq!(code(1, 3), "accepted");
    assert_eq!(code(5, 7), "accepted");
    assert_eq!(code(2, 4), "SPK3305");
    assert_eq!(code(3, 5), "SPK3305");
}

#[test]
fn right_sides_are_determined() {
    for rule in rules() {
        let Some((lhs, rhs)) = rule.sides else { continue };
        for side in [lhs, rhs] {
            assert!(crate::pattern::Pattern::parse(side).is_some(), "{}: {side}", rule.name);
        }
    }
}
