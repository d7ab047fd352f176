use std::time::UNIX_EPOCH;

use super::*;

const EXPORTER: [u8; 32] = [9; 32];

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

fn identity(seed: u8) -> Identity {
    Identity::from_seed([seed; 32])
}

fn name(text: &str) -> ObjectName {
    ObjectName::new(text).unwrap()
}

fn secret(text: &str) -> Pass {
    format!("a-secret-of-tests-{text}").parse().unwrap()
}

fn with(pass: Pass) -> Visitor {
    Visitor { pass: Some(pass), identity: None }
}

fn named(seed: u8) -> Visitor {
    Visitor { pass: None, identity: Some(identity(seed).into()) }
}

fn ask_at(door: &Door, visitor: &Visitor, wall: SystemTime) -> Result<Admission, String> {
    let credentials = visitor.credentials(&EXPORTER);
    ask_with(door, &credentials, &EXPORTER, wall)
}

fn ask_with(
    door: &Door,
    credentials: &[u8],
    exporter: &[u8; 32],
    wall: SystemTime,
) -> Result<Admission, String> {
    let admitted = door.decide(credentials, exporter, wall).map_err(|it| it.to_string())?;
    let again = Admission::decode(&admitted.encode());
    assert_eq!(again.as_ref(), Some(&admitted));
    Ok(admitted)
}

fn ask(door: &Door, visitor: &Visitor) -> Result<Admission, String> {
    ask_at(door, visitor, now())
}

#[test]
fn each_way_in_lets_in_its_own_and_says_what_it_asks_for() {
    let ticket = |seed, scope: Option<&str>| {
        let expires = now() + Duration::from_secs(60);
        with(Ticket { expires, scope: scope.map(name) }.sign(&identity(seed)))
    };
    let door = || Door::closed().unwrap();
    let clients = || BTreeSet::from([identity(7).fingerprint()]);
    let by_secret = || door().with_secret(&secret("x")).with_tickets(&identity(1));
    let nobody = Visitor::default;
    for (door, visitor, outcome) in [
        (Door::open().unwrap(), nobody(), Ok(())),
        (Door::open().unwrap(), with(secret("any")), Ok(())),
        (by_secret(), with(secret("x")), Ok(())),
        (by_secret(), nobody(), Err("asks for a secret: take the whole link")),
        (by_secret(), with(secret("y")), Err("the link's secret is not this server's")),
        (by_secret(), named(7), Err("asks for a secret")),
        (by_secret(), ticket(1, None), Ok(())),
        (by_secret(), ticket(2, None), Err("was not made by this server")),
        (door().with_tickets(&identity(1)), nobody(), Err("take the whole link")),
        (door().with_tickets(&identity(1)), with(secret("x")), Err("take the whole link")),
        (door().with_clients(clients()), named(7), Ok(())),
        (door().with_clients(clients()), named(8), Err("does not know the key")),
        (door().with_clients(clients()), nobody(), Err("`kwik identity`")),
        (door().with_clients(clients()), with(secret("x")), Err("`kwik identity`")),
        (by_secret().with_clients(clients()), named(7), Ok(())),
        (by_secret().with_clients(clients()), with(secret("x")), Ok(())),
        (by_secret().with_clients(clients()), named(8), Err("asks for a secret")),
        (door(), nobody(), Err("is an edge of others")),
        (door(), named(7), Err("is an edge of others")),
        (door(), with(secret("x")), Err("is an edge of others")),
        (door(), ticket(1, None), Err("is an edge of others")),
    ] {
        let asked = ask(&door, &visitor).map(drop);
        match (&asked, outcome) {
            (Ok(()), Ok(())) => {}
            (Err(said), Err(why)) if said.contains(why) => {}
            _ => panic!("{door:?}, {visitor:?}: {asked:?}, not {outcome:?}"),
        }
        // A server is always let in to itself.
        assert!(ask(&door, &door.own_visitor()).is_ok());
    }
}

#[test]
fn a_key_is_proven_for_one_connection_alone() {
    let door = Door::closed().unwrap().with_clients([identity(7).fingerprint()].into());
    let seen = named(7).credentials(&EXPORTER);
    let admitted = ask_with(&door, &seen, &EXPORTER, now()).unwrap();
    assert_eq!(admitted.client, Some(identity(7).fingerprint()));
    let replayed = ask_with(&door, &seen, &[10; 32], now()).unwrap_err();
    assert!(replayed.contains("did not prove"), "{replayed}");
    // A known key that another signs for.
    let mut borrowed = wire::Credentials::decode(&*named(8).credentials(&EXPORTER)).unwrap();
    borrowed.client_key = Bytes::copy_from_slice(&identity(7).public_key().0);
    assert!(ask_with(&door, &borrowed.encode_to_vec(), &EXPORTER, now()).is_err());
    assert!(ask_with(&door, b"\xff\xff", &EXPORTER, now()).unwrap_err().contains("no sense"));
    let open = Door::open().unwrap();
    assert_eq!(ask_with(&open, b"\xff\xff", &EXPORTER, now()), Ok(Admission::default()));
    assert_eq!(ask_with(&open, &seen, &[10; 32], now()), Ok(Admission::default()));
}

#[test]
fn clients_that_are_known_no_more_stay_out_from_then_on() {
    let door = Door::closed().unwrap().with_clients([identity(7).fingerprint()].into());
    assert!(ask(&door, &named(7)).is_ok());
    door.set_clients([identity(8).fingerprint()].into());
    assert!(ask(&door, &named(7)).is_err() && ask(&door, &named(8)).is_ok());
}

#[test]
fn a_ticket_ends_and_leads_nowhere_else() {
    let door = Door::closed().unwrap().with_tickets(&identity(1));
    let expires = now() + Duration::from_secs(60);
    let visitor = with(Ticket { expires, scope: Some(name("a")) }.sign(&identity(1)));
    let admitted = ask(&door, &visitor).unwrap();
    assert_eq!(admitted.check(&name("a/b"), true, now()), Ok(()));
    let elsewhere = admitted.check(&name("b"), true, now()).unwrap_err();
    assert_eq!(elsewhere.code, FailureCode::Forbidden);
    assert!(elsewhere.message.contains("does not lead to b"), "{}", elsewhere.message);
    assert_eq!(admitted.check_list(Some(&name("a")), now()), Ok(()));
    for folder in [None, Some(name("b"))] {
        let refused = admitted.check_list(folder.as_ref(), now()).unwrap_err();
        assert_eq!(refused.code, FailureCode::Forbidden);
    }
    // What was begun in time ends; nothing else is begun.
    let late = expires + Duration::from_secs(2 * 3600);
    assert_eq!(admitted.check(&name("a"), false, late), Ok(()));
    assert!(admitted.check(&name("b"), false, late).is_err());
    let refused = admitted.check(&name("a"), true, late).unwrap_err();
    assert!(refused.message.contains("expired 2 h ago"), "{}", refused.message);
    let everywhere = with(Ticket { expires, scope: None }.sign(&identity(1)));
    let everywhere = ask(&door, &everywhere).unwrap();
    assert_eq!(everywhere.check_list(None, now()), Ok(()));
    for (admitted, folder) in [(&everywhere, None), (&admitted, Some(name("a")))] {
        let refused = admitted.check_list(folder.as_ref(), late).unwrap_err();
        assert!(refused.message.contains("expired 2 h ago"), "{}", refused.message);
    }
    let refused = ask_at(&door, &visitor, late).unwrap_err();
    assert!(refused.contains("expired 2 h ago: ask its owner"), "{refused}");
}
