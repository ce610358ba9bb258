{
  description = "Copies PostgreSQL tables to another PostgreSQL and keeps them in step";

  # The last release for Macs with Intel processors, and the first whose Rust is new enough.
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs =
    { self, nixpkgs }:
    let
      inherit (nixpkgs) lib;
      systems = [
        "x86_64-linux"
        "aarch64-linux"
        "x86_64-darwin"
        "aarch64-darwin"
      ];
      eachSystem = f: lib.genAttrs systems (system: f nixpkgs.legacyPackages.${system});
      mine = pkgs: self.packages.${pkgs.stdenv.hostPlatform.system};

      # A module, with this flake's package as the default.
      module =
        path:
        { lib, pkgs, ... }:
        {
          imports = [ path ];
          services.incremental-replication.package = lib.mkDefault (mine pkgs).default;
        };
    in
    {
      packages = eachSystem (
        pkgs:
        let
          with-pg_dump-of = postgresql: pkgs.callPackage ./nix/package.nix { inherit postgresql; };
          # The newest, for it reads all older servers.
          default = with-pg_dump-of pkgs.postgresql_18;
        in
        {
          inherit default;
          postgresql_16 = with-pg_dump-of pkgs.postgresql_16;
          postgresql_17 = with-pg_dump-of pkgs.postgresql_17;
          demo = pkgs.callPackage ./nix/demo.nix {
            incremental-replication = default;
            postgresql = pkgs.postgresql_18;
          };
        }
        // lib.optionalAttrs pkgs.stdenv.hostPlatform.isLinux {
          static = pkgs.pkgsStatic.callPackage ./nix/package.nix { postgresql = null; };
          image = pkgs.callPackage ./nix/image.nix { incremental-replication = default; };
        }
      );

      apps = eachSystem (pkgs: {
        default = {
          type = "app";
          program = lib.getExe (mine pkgs).default;
        };
        demo = {
          type = "app";
          program = lib.getExe (mine pkgs).demo;
        };
      });

      checks = eachSystem (
        pkgs:
        import ./nix/checks.nix {
          inherit pkgs;
          incremental-replication = (mine pkgs).default;
        }
      );

      devShells = eachSystem (pkgs: {
        default = pkgs.mkShell {
          packages = [
            pkgs.cargo
            pkgs.cargo-deny
            pkgs.clippy
            pkgs.postgresql_18
            pkgs.rustc
            pkgs.rustfmt
            pkgs.shellcheck
          ];
          PG_BIN_DIR = "${lib.getBin pkgs.postgresql_18}/bin";
        };
      });

      overlays.default = final: prev: {
        incremental-replication = final.callPackage ./nix/package.nix {
          postgresql = final.postgresql_18;
        };
      };

      nixosModules.default = module ./nix/module-nixos.nix;
      homeModules.default = module ./nix/module-home.nix;
      darwinModules.default = module ./nix/module-darwin.nix;
    };
}
