# A pipeline as a job of launchd, for nix-darwin and home-manager.
{ lib }:

rec {
  seconds = lib.mkOption {
    type = lib.types.ints.positive;
    default = 300;
    description = "How many seconds lie between two syncs on macOS.";
  };

  command =
    package: pipeline:
    [
      (lib.getExe package)
      "--dir"
      pipeline.directory
      "sync"
    ]
    ++ pipeline.arguments;

  # launchd reads no file of variables: passwords stand in the pipeline's .env. A job that still
  # runs is not started a second time.
  job = package: name: pipeline: {
    ProgramArguments = command package pipeline;
    EnvironmentVariables = {
      PIPELINE_NAME = name;
    }
    // pipeline.environment;
    StartInterval = pipeline.seconds;
    StandardOutPath = "${pipeline.directory}/sync.log";
    StandardErrorPath = "${pipeline.directory}/sync.log";
    Umask = 63; # 0077
  };
}
