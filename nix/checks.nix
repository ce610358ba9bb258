# What `nix flake check` builds.
{ pkgs, incremental-replication }:

let
  inherit (pkgs) lib;
  inherit (incremental-replication) pname;

  # Both sides and pg_dump are of one version; continuous integration mixes them.
  suite =
    postgresql:
    incremental-replication.override {
      inherit postgresql;
      doCheck = true;
    };
in
{
  suite-postgresql-16 = suite pkgs.postgresql_16;
  suite-postgresql-17 = suite pkgs.postgresql_17;
  suite-postgresql-18 = suite pkgs.postgresql_18;

  clippy = incremental-replication.overrideAttrs (old: {
    pname = "${pname}-clippy";
    nativeBuildInputs = old.nativeBuildInputs ++ [ pkgs.clippy ];
    buildPhase = ''
      cargo clippy --offline --all-targets -- -D warnings
    '';
    installPhase = ''
      touch $out
    '';
    postInstall = "";
  });

  fmt =
    pkgs.runCommand "${pname}-fmt"
      {
        nativeBuildInputs = [
          pkgs.cargo
          pkgs.rustfmt
        ];
      }
      ''
        cp -r ${incremental-replication.src} source
        cd source
        cargo fmt --check
        touch $out
      '';

  # First copies through pg_dump, by a tool that is started with no PATH at all.
  pg_dump = pkgs.runCommand "${pname}-pg_dump" { } ''
    bash ${../packaging/ci/verify-fixture} --empty-path \
      ${lib.getExe incremental-replication} ${lib.getBin pkgs.postgresql_18}/bin
    touch $out
  '';
}
