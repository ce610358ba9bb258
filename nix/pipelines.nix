# What a pipeline is, for the modules of NixOS, home-manager and nix-darwin.
{
  lib,
  pkgs,
  # Where a pipeline of this name is unless somebody says otherwise.
  directory,
  # Options that only this kind of system has.
  further ? { },
}:

let
  inherit (lib) mkOption types;
in
{
  package = mkOption {
    type = types.package;
    description = "The tool. The default of the flake brings the pg_dump of PostgreSQL 18.";
  };

  pipelines = mkOption {
    default = { };
    description = ''
      Pipelines that are synced now and then: directories with `.env`, `tables-config.json` and
      `sync-state/`. Runs that overlap are safe.
    '';
    type = types.attrsOf (
      types.submodule (
        { name, ... }:
        {
          options = {
            directory = mkOption {
              type = types.str;
              default = directory name;
              description = "The pipeline's directory.";
            };
            tables = mkOption {
              type = types.nullOr (pkgs.formats.json { }).type;
              default = null;
              description = ''
                What stands in `tables-config.json`, or null where the file is kept by hand.
              '';
            };
            environment = mkOption {
              type = types.attrsOf types.str;
              default = { };
              example = {
                SOURCE_HOST = "source.example.com";
              };
              description = ''
                Variables such as `SOURCE_HOST`, which beat `.env`. Everybody on the machine can read
                them: no passwords.
              '';
            };
            arguments = mkOption {
              type = types.listOf types.str;
              default = [ ];
              example = [ "--quiet" ];
              description = "Further arguments of `sync`.";
            };
          }
          // further;
        }
      )
    );
  };
}
