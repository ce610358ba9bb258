# For home-manager: a service and a timer a pipeline on Linux, an agent of launchd on macOS.
{
  config,
  lib,
  pkgs,
  ...
}:

let
  cfg = config.services.incremental-replication;
  launchd = import ./launchd.nix { inherit lib; };

  common = import ./pipelines.nix {
    inherit lib pkgs;
    directory = name: "${config.xdg.dataHome}/incremental-replication/${name}";
    further = {
      startAt = lib.mkOption {
        type = lib.types.str;
        default = "*:0/5";
        description = "When to sync on Linux, in systemd's calendar format.";
      };
      seconds = launchd.seconds;
    };
  };

  # Between quotes systemd takes % for a specifier, and in a command $ for a variable as well.
  quoted = word: "\"" + lib.replaceStrings [ "\\" "\"" "%" ] [ "\\\\" "\\\"" "%%" ] word + "\"";
  argument = word: lib.replaceStrings [ "$" ] [ "$$" ] (quoted word);

  service =
    name: pipeline:
    lib.nameValuePair "incremental-replication-${name}" {
      Unit.Description = "Sync of the pipeline ${name}";
      Service = {
        Type = "oneshot";
        # The pipeline's .env holds its secrets.
        Environment = lib.mapAttrsToList (variable: value: quoted "${variable}=${value}") (
          { PIPELINE_NAME = name; } // pipeline.environment
        );
        ExecStart = lib.concatMapStringsSep " " argument (launchd.command cfg.package pipeline);
        # 4: another run holds a table, and the rest was synced.
        SuccessExitStatus = "4";
        UMask = "0077";
      };
    };

  timer =
    name: pipeline:
    lib.nameValuePair "incremental-replication-${name}" {
      Unit.Description = "Syncs of the pipeline ${name}";
      Timer = {
        OnCalendar = pipeline.startAt;
        Persistent = true;
      };
      Install.WantedBy = [ "timers.target" ];
    };

  agent =
    name: pipeline:
    lib.nameValuePair "incremental-replication-${name}" {
      enable = true;
      config = launchd.job cfg.package name pipeline;
    };

  inherit (pkgs.stdenv.hostPlatform) isLinux;
in
{
  options.services.incremental-replication = common;

  config = lib.mkIf (cfg.pipelines != { }) {
    home.packages = [ cfg.package ];
    home.file = lib.mapAttrs' (
      name: pipeline:
      lib.nameValuePair "${pipeline.directory}/tables-config.json" {
        source = (pkgs.formats.json { }).generate "tables-config.json" pipeline.tables;
      }
    ) (lib.filterAttrs (name: pipeline: pipeline.tables != null) cfg.pipelines);
    systemd.user.services = lib.mkIf isLinux (lib.mapAttrs' service cfg.pipelines);
    systemd.user.timers = lib.mkIf isLinux (lib.mapAttrs' timer cfg.pipelines);
    launchd.agents = lib.mkIf (!isLinux) (lib.mapAttrs' agent cfg.pipelines);
  };
}
