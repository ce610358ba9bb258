# The tool, for `callPackage`: of this flake, of an overlay, of pkgsStatic, and of nixpkgs some day.
{
  lib,
  stdenv,
  rustPlatform,
  installShellFiles,
  makeBinaryWrapper,
  # Whose pg_dump goes on the tool's PATH. It reads servers of its own major version and older ones.
  # With null the tool uses the pg_dump of whoever calls it, and COPY where there is none.
  postgresql,
  # The suite starts servers and takes minutes; whoever only wants to run the tool does not wait for
  # it. The flake's checks do.
  doCheck ? false,
}:

let
  manifest = (builtins.fromTOML (builtins.readFile ../Cargo.toml)).package;
  name = manifest.name;
in
rustPlatform.buildRustPackage {
  pname = name;
  version = manifest.version;

  # Named one by one: a change to anything else does not build the tool again.
  src = lib.fileset.toSource {
    root = ../.;
    fileset = lib.fileset.unions [
      ../.env.sample
      ../Cargo.lock
      ../Cargo.toml
      ../clippy.toml
      ../examples
      ../rustfmt.toml
      ../scripts
      ../snapshots
      ../src
      ../tables-config.json
      ../tests/suite
    ];
  };

  cargoLock.lockFile = ../Cargo.lock;

  nativeBuildInputs = [
    installShellFiles
  ]
  ++ lib.optional (postgresql != null) makeBinaryWrapper;

  # The binary makes its own completions and man page, so a binary for another machine has none.
  postInstall =
    lib.optionalString (stdenv.buildPlatform.canExecute stdenv.hostPlatform) ''
      for shell in bash fish zsh; do
        $out/bin/${name} completions $shell > ${name}.$shell
      done
      installShellCompletion --cmd ${name} \
        --bash ${name}.bash --fish ${name}.fish --zsh ${name}.zsh
      $out/bin/${name} man > ${name}.1
      installManPage ${name}.1
    ''
    + lib.optionalString (postgresql != null) ''
      wrapProgram $out/bin/${name} --prefix PATH : ${lib.makeBinPath [ postgresql ]}
    '';

  inherit doCheck;
  # As it is tested by hand: with debug assertions, and with checks of every sum.
  checkType = "debug";
  nativeCheckInputs = lib.optional doCheck postgresql;
  preCheck = lib.optionalString doCheck ''
    export PG_BIN_DIR=${lib.getBin postgresql}/bin LC_ALL=C
    # The servers' sockets are in TMPDIR, and their paths may have 103 bytes on macOS.
    export TMPDIR=$(mktemp -d /tmp/check.XXXXXX)
    export HOME=$TMPDIR
  '';
  postCheck = lib.optionalString doCheck ''
    rm -rf "$TMPDIR"
    export TMPDIR=$NIX_BUILD_TOP
  '';
  # The sandbox of macOS lets nobody listen on 127.0.0.1 without it.
  __darwinAllowLocalNetworking = true;

  meta = {
    description = manifest.description;
    license = [
      lib.licenses.mit
      lib.licenses.asl20
    ];
    mainProgram = name;
    platforms = lib.platforms.unix;
  };
}
