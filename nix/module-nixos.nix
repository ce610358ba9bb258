# For NixOS: a service and a timer a pipeline.
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:

let
  cfg = config.services.incremental-replication;
  user = "incremental-replication";

  common = import ./pipelines.nix {
    inherit lib pkgs;
    directory = name: "/var/lib/${user}/${name}";
    further = {
      environmentFile = lib.mkOption {
        type = lib.types.nullOr lib.types.str;
        default = null;
        example = "/run/secrets/shop.env";
        description = ''
          A file of variables such as `SOURCE_PASSWORD`, as systemd reads it. Only systemd has to be
          able to read the file.
        '';
      };
      startAt = lib.mkOption {
        type = lib.types.str;
        default = "*:0/5";
        description = "When to sync, in systemd's calendar format.";
      };
    };
  };

  service =
    name: pipeline:
    lib.nameValuePair "incremental-replication-${name}" {
      description = "Sync of the pipeline ${name}";
      after = [ "network-online.target" ];
      wants = [ "network-online.target" ];
      environment = {
        PIPELINE_NAME = name;
      }
      // pipeline.environment;
      preStart = lib.optionalString (pipeline.tables != null) ''
        ln -sfn ${
          (pkgs.formats.json { }).generate "tables-config.json" pipeline.tables
        } ${lib.escapeShellArg "${pipeline.directory}/tables-config.json"}
      '';
      serviceConfig = {
        Type = "oneshot";
        User = user;
        Group = user;
        ExecStart = utils.escapeSystemdExecArgs (
          [
            (lib.getExe cfg.package)
            "--dir"
            pipeline.directory
            "sync"
          ]
          ++ pipeline.arguments
        );
        # 4: another run holds a table, and the rest was synced.
        SuccessExitStatus = [ "4" ];
        # sync-state/ is written here, and nothing anywhere else.
        ReadWritePaths = [ pipeline.directory ];
        UMask = "0077";

        CapabilityBoundingSet = "";
        LockPersonality = true;
        MemoryDenyWriteExecute = true;
        NoNewPrivileges = true;
        PrivateDevices = true;
        PrivateTmp = true;
        ProtectClock = true;
        ProtectControlGroups = true;
        ProtectHome = true;
        ProtectHostname = true;
        ProtectKernelLogs = true;
        ProtectKernelModules = true;
        ProtectKernelTunables = true;
        ProtectProc = "invisible";
        ProtectSystem = "strict";
        # Netlink is for the interfaces that a resolver of names asks about.
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_NETLINK"
          "AF_UNIX"
        ];
        RestrictNamespaces = true;
        RestrictRealtime = true;
        RestrictSUIDSGID = true;
        SystemCallArchitectures = "native";
        SystemCallFilter = [
          "@system-service"
          "~@privileged"
        ];
      }
      // lib.optionalAttrs (pipeline.environmentFile != null) {
        EnvironmentFile = pipeline.environmentFile;
      };
    };

  timer =
    name: pipeline:
    lib.nameValuePair "incremental-replication-${name}" {
      description = "Syncs of the pipeline ${name}";
      wantedBy = [ "timers.target" ];
      timerConfig = {
        OnCalendar = pipeline.startAt;
        Persistent = true;
      };
    };

  # Made before the services, which run as somebody who could not.
  directory = name: pipeline: "d ${pipeline.directory} 0700 ${user} ${user} -";
in
{
  options.services.incremental-replication = common;

  config = lib.mkIf (cfg.pipelines != { }) {
    users.users.${user} = {
      isSystemUser = true;
      group = user;
      description = "Syncs pipelines";
    };
    users.groups.${user} = { };
    environment.systemPackages = [ cfg.package ];
    systemd.services = lib.mapAttrs' service cfg.pipelines;
    systemd.timers = lib.mapAttrs' timer cfg.pipelines;
    systemd.tmpfiles.rules = lib.mapAttrsToList directory cfg.pipelines;
  };
}
