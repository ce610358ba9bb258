# For nix-darwin: an agent of launchd a pipeline, which runs as the user who is logged in. Its
# directory must be there, with its .env.
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
    directory = name: "/usr/local/var/incremental-replication/${name}";
    further = {
      seconds = launchd.seconds;
    };
  };

  agent =
    name: pipeline:
    lib.nameValuePair "incremental-replication-${name}" {
      serviceConfig = launchd.job cfg.package name pipeline;
    };

  link = pipeline: ''
    ln -sfn ${
      (pkgs.formats.json { }).generate "tables-config.json" pipeline.tables
    } ${lib.escapeShellArg "${pipeline.directory}/tables-config.json"}
  '';
in
{
  options.services.incremental-replication = common;

  config = lib.mkIf (cfg.pipelines != { }) {
    environment.systemPackages = [ cfg.package ];
    launchd.user.agents = lib.mapAttrs' agent cfg.pipelines;
    system.activationScripts.postActivation.text = lib.concatMapStrings link (
      lib.filter (pipeline: pipeline.tables != null) (lib.attrValues cfg.pipelines)
    );
  };
}
