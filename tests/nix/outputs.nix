# What the flake must offer, as text: a line a derivation. Everything is evaluated on the stand-in.
{ flake }:

let
  inherit (builtins)
    attrNames
    concatMap
    concatStringsSep
    mapAttrs
    match
    ;

  nixpkgs = (import ./nixpkgs/flake.nix).outputs { self = nixpkgs; };
  self = (import (flake + "/flake.nix")).outputs { inherit self nixpkgs; };

  systems = [
    "x86_64-linux"
    "aarch64-linux"
    "x86_64-darwin"
    "aarch64-darwin"
  ];

  wanted = system: {
    checks = [
      "clippy"
      "fmt"
      "pg_dump"
      "suite-postgresql-16"
      "suite-postgresql-17"
      "suite-postgresql-18"
    ];
    devShells = [ "default" ];
    packages =
      if match ".*-linux" system != null then
        [
          "default"
          "demo"
          "image"
          "postgresql_16"
          "postgresql_17"
          "static"
        ]
      else
        [
          "default"
          "demo"
          "postgresql_16"
          "postgresql_17"
        ];
  };

  has = word: text: builtins.length (builtins.split word text) > 1;

  lines =
    system:
    let
      found = mapAttrs (kind: _: self.${kind}.${system}) (wanted system);
      program = name: self.apps.${system}.${name}.program;
      brings = name: major: has "postgresql_${major}" found.packages.${name}.postInstall;
      tests =
        major:
        let
          suite = found.checks."suite-postgresql-${major}";
        in
        suite.doCheck && has "postgresql_${major}" suite.preCheck;
    in
    assert mapAttrs (_: attrNames) found == wanted system;
    assert program "default" == "${found.packages.default}/bin/incremental-replication";
    assert brings "default" "18" && brings "postgresql_17" "17" && brings "postgresql_16" "16";
    assert found.packages ? static -> !has "postgresql" found.packages.static.postInstall;
    assert tests "16" && tests "17" && tests "18";
    assert program "demo" == "${found.packages.demo}/bin/incremental-replication-demo";
    concatMap (
      kind: map (name: "${system} ${kind}.${name} ${found.${kind}.${name}.drvPath}") (attrNames found.${kind})
    ) (attrNames found);

  overlaid =
    let
      final = nixpkgs.legacyPackages.x86_64-linux // self.overlays.default final { };
    in
    final.incremental-replication.drvPath;

  evaluate =
    kind: system: pipelines:
    nixpkgs.evaluate {
      inherit kind system pipelines;
      module = self."${kind}Modules".default;
    };
  modules = [
    (evaluate "nixos" "x86_64-linux" true)
    (evaluate "nixos" "aarch64-linux" false)
    (evaluate "home" "aarch64-linux" true)
    (evaluate "home" "x86_64-darwin" true)
    (evaluate "darwin" "aarch64-darwin" true)
    (evaluate "darwin" "x86_64-darwin" false)
  ];
  # A module that sets nothing is as wrong as one that sets what nobody knows, and the other way
  # round where there is no pipeline.
  sizes = map (set: set != { }) modules;
in
assert overlaid == self.packages.x86_64-linux.default.drvPath;
assert
  sizes == [
    true
    false
    true
    true
    true
    false
  ];
builtins.deepSeq (map builtins.toJSON modules) {
  text = concatStringsSep "\n" (concatMap lines systems);
  inherit modules;
}
