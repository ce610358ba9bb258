# The demo: the example, the tool that it shows, and a PostgreSQL for its two servers.
{
  lib,
  stdenv,
  makeBinaryWrapper,
  incremental-replication,
  postgresql,
  util-linux,
}:

incremental-replication.overrideAttrs (old: {
  pname = "${old.pname}-demo";
  nativeBuildInputs = old.nativeBuildInputs ++ [ makeBinaryWrapper ];
  cargoBuildFlags = [
    "--example"
    "demo"
  ];
  # The servers run as nobody where the demo runs as root, which takes setpriv.
  installPhase = ''
    runHook preInstall
    install -D -t $out/bin "$(find target -path '*/release/examples/demo')"
    mv $out/bin/demo $out/bin/${old.pname}-demo
    wrapProgram $out/bin/${old.pname}-demo \
      --set PG_BIN_DIR ${lib.getBin postgresql}/bin \
      --set DEMO_BINARY ${lib.getExe incremental-replication} \
      ${lib.optionalString stdenv.hostPlatform.isLinux "--prefix PATH : ${lib.makeBinPath [ util-linux ]}"}
    runHook postInstall
  '';
  postInstall = "";
  doCheck = false;
  meta = old.meta // {
    description = "Shows ${old.pname} at work on two PostgreSQL servers of its own";
    mainProgram = "${old.pname}-demo";
  };
})
