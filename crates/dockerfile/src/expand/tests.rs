use super::*;

fn env() -> Vec<(String, String)> {
    [
        ("SET", "s"),
        ("EMPTY", ""),
        ("F", "a.tar.gz"),
        ("P", "/usr/lib/x"),
        ("TWO", "80 443"),
        ("한글", "ko"),
        ("A", "val"),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .to_vec()
}

fn value(text: &str) -> Result<String, String> {
    expand(text, &env(), Escape::Backslash, Mode::Word).map(|e| e.value).map_err(|e| e.message)
}

#[test]
fn values() {
    for (text, expected) in [
        ("$SET", "s"),
        ("${SET}x", "sx"),
        ("$UNSET.", "."),
        ("$SET.x", "s.x"),
        ("$한글", "ko"),
        ("${SET:-d}|${EMPTY:-d}|${UNSET:-d}", "s|d|d"),
        ("${SET-d}|${EMPTY-d}|${UNSET-d}", "s||d"),
        ("${SET:+a}|${EMPTY:+a}|${UNSET:+a}", "a||"),
        ("${SET+a}|${EMPTY+a}|${UNSET+a}", "a|a|"),
        ("${UNSET:-${EMPTY:-deep}}", "deep"),
        ("${UNSET:-\"a b\"}", "a b"),
        ("${SET:?m}|${EMPTY?m}", "s|"),
        ("${F#*.}|${F##*.}|${F%.*}|${F%%.*}", "tar.gz|gz|a.tar|a"),
        ("${F#x}|${F%x}|${UNSET#x}", "a.tar.gz|a.tar.gz|"),
        ("${P#/*/}|${P##*/}|${P%/*}", "lib/x|x|/usr/lib"),
        ("${F#?}|${F%??}", ".tar.gz|a.tar."),
        ("${F/a/b}|${F//a/b}|${F/./}|${F//./-}", "b.tar.gz|b.tbr.gz|atar.gz|a-tar-gz"),
        ("${F//[ab]/-}", "a.tar.gz"),
        ("${P/\\/usr/x}", "x/lib/x"),
        ("${F//tar/<$0>}", "a.<>.gz"),
        ("${F//tar/<\\$0>}", "a.<\\tar>.gz"),
        ("${F/tar/\\*}", "a.\\*.gz"),
        ("\\$A|'$A'|\"$A\"|\"\\$A\"|\\\\$A", "$A|$A|val|$A|\\val"),
        ("\"a'$A'b\"|'a\"$A\"b'", "a'val'b|a\"$A\"b"),
        (
            "$|a$|\"$\"|$(x)|$1|\\${A}|$.|$$|$@",
            "$|a$|$|$(x)|||${A}|$.||".replace("|||${A}", "||${A}").as_str(),
        ),
        ("\"a\\nb\"|a\\nb", "a\\nb|anb"),
        ("end\\", "end"),
    ] {
        assert_eq!(value(text), Ok(expected.to_owned()), "{text}");
    }
}

#[test]
fn errors() {
    for (text, expected) in [
        ("${", "syntax error: missing '}'"),
        ("${}", "syntax error: bad substitution"),
        ("${:-x}", "syntax error: bad substitution"),
        ("${{x}}", "syntax error: bad substitution"),
        ("${SET", "syntax error: missing '}'"),
        ("${SET:-x", "syntax error: missing '}'"),
        ("${SET/x", "syntax error: missing '/'"),
        ("${SET/x/y", "syntax error: missing '}'"),
        ("${SET:=x}", "unsupported modifier (:=) in substitution"),
        ("${SET=x}", "unsupported modifier (=) in substitution"),
        ("${SET^^}", "unsupported modifier (^) in substitution"),
        ("${UNSET:?}", "UNSET: not allowed to be unset"),
        ("${EMPTY:?}", "EMPTY: not allowed to be empty"),
        ("${UNSET?give it}", "UNSET: give it"),
        ("'x", "unexpected end of statement while looking for matching single-quote"),
        ("\"x", "unexpected end of statement while looking for matching double-quote"),
    ] {
        assert_eq!(value(text), Err(expected.to_owned()), "{text}");
    }
}

#[test]
fn words_are_split_after_the_expansion() {
    let words = |text| expand_words(text, &env(), Escape::Backslash).unwrap();
    assert_eq!(words("$TWO 8080"), ["80", "443", "8080"]);
    assert_eq!(words("\"$TWO\" x$SET"), ["80 443", "xs"]);
    assert_eq!(words("'' $EMPTY"), Vec::<String>::new());
    assert_eq!(words("a\\ b"), ["a b"]);
}

#[test]
fn heredoc_bodies_keep_quotes() {
    let body = |text| expand(text, &env(), Escape::Backtick, Mode::Heredoc).unwrap().value;
    assert_eq!(body("it's \"$A\" '$A'\n"), "it's \"val\" 'val'\n");
    assert_eq!(body("\\$A \\\\ a\\b\\\nnext"), "$A \\ ab\nnext");
}

#[test]
fn texts_for_people_keep_what_is_not_set() {
    let text = |text| expand(text, &env(), Escape::Backslash, Mode::Display).unwrap().value;
    assert_eq!(text("echo \"$A\" '$A' $UNSET ${UNSET:-x} \\$A"), "echo \"val\" '$A' $UNSET ${UNSET:-x} \\$A");
}

#[test]
fn names_without_value_are_told() {
    let expansion = expand("a $NOPE ${NADA} ${WITH:-x}", &env(), Escape::Backslash, Mode::Word).unwrap();
    let names: Vec<_> = expansion.undefined.iter().map(|u| (u.name.as_str(), u.offset)).collect();
    assert_eq!(names, [("NOPE", 2), ("NADA", 8), ("WITH", 16)]);
}

#[test]
fn the_escape_directive_counts() {
    let value = |text| expand(text, &env(), Escape::Backtick, Mode::Word).unwrap().value;
    assert_eq!(value("C:\\$A`$A"), "C:\\val$A");
}

#[test]
fn deep_nesting_ends_in_an_error() {
    let text = "${X:-".repeat(10_000);
    assert!(value(&text).unwrap_err().contains("nest"));
}
