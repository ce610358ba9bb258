# What cargo with --locked would say of a Cargo.toml and its Cargo.lock, as far as names and versions
# go: the lock that is left behind by a changed manifest fails only when it is built.
{ manifest, lock }:

let
  inherit (builtins)
    attrNames
    compareVersions
    concatStringsSep
    elemAt
    filter
    head
    isString
    map
    match
    splitVersion
    ;

  package = manifest.package;
  wanted = (manifest.dependencies or { }) // (manifest.dev-dependencies or { });
  named = name: filter (entry: entry.name == name) lock.package;
  own = named package.name;

  requirement = name: if isString wanted.${name} then wanted.${name} else wanted.${name}.version;

  # `1.2` means at least 1.2 and below 2; `0.2` means at least 0.2 and below 0.3.
  satisfies =
    name: version:
    let
      least = requirement name;
      fixed = if head (splitVersion least) == "0" then 2 else 1;
      leading = text: builtins.genList (at: elemAt (splitVersion text) at) fixed;
      plain = match "[0-9]+(\\.[0-9]+)*" least != null;
      padded = if builtins.length (splitVersion least) == 1 then "${least}.0" else least;
    in
    if !plain then
      throw "Cargo.toml: ${name} = \"${least}\" is not understood here"
    else
      leading padded == leading version && compareVersions version least >= 0;

  # A dependency in the lock is `name`, or `name version` where there are several.
  lockedNames = map (entry: head (match "([^ ]+).*" entry)) ((head own).dependencies or [ ]);

  problems =
    if own == [ ] then
      [ "Cargo.lock has no package ${package.name}" ]
    else if (head own).version != package.version then
      [ "Cargo.lock has ${package.name} ${(head own).version}, Cargo.toml has ${package.version}" ]
    else if builtins.sort builtins.lessThan lockedNames != attrNames wanted then
      [
        "Cargo.lock and Cargo.toml name different dependencies: ${
          concatStringsSep ", " (
            filter (name: !builtins.elem name lockedNames) (attrNames wanted)
            ++ filter (name: !(wanted ? ${name})) lockedNames
          )
        }"
      ]
    else
      map (name: "Cargo.lock has no ${name} ${requirement name}") (
        filter (name: filter (entry: satisfies name entry.version) (named name) == [ ]) (attrNames wanted)
      );
in
if problems == [ ] then true else throw (concatStringsSep "; " problems)
