# A container image: the tool, its pg_dump and the usual certificates. The pipeline's directory is to
# be mounted at /pipeline, and must be writable for user 65534, for sync-state/.
{
  lib,
  dockerTools,
  cacert,
  incremental-replication,
}:

dockerTools.buildLayeredImage {
  name = incremental-replication.pname;
  tag = incremental-replication.version;
  contents = [
    cacert
    incremental-replication
  ];
  config = {
    Entrypoint = [ (lib.getExe incremental-replication) ];
    Cmd = [ "sync" ];
    Env = [ "SSL_CERT_FILE=${cacert}/etc/ssl/certs/ca-bundle.crt" ];
    User = "65534:65534";
    WorkingDir = "/pipeline";
  };
}
