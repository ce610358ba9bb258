# Whether flake.lock is about the inputs of flake.nix. With another nixpkgs in its place, as in
# scripts/check-flake, `nix` does not look at it.
{ flake }:

let
  lock = builtins.fromJSON (builtins.readFile (flake + "/flake.lock"));
  inputs = (import (flake + "/flake.nix")).inputs;
  node = lock.nodes.${lock.nodes.root.inputs.nixpkgs};
  inherit (node) locked original;
in
assert lock.version == 7 && lock.root == "root";
assert builtins.attrNames lock.nodes.root.inputs == builtins.attrNames inputs;
assert inputs.nixpkgs.url == "${original.type}:${original.owner}/${original.repo}/${original.ref}";
assert builtins.all (name: locked.${name} == original.${name}) [
  "owner"
  "repo"
  "type"
];
assert builtins.match "[0-9a-f]{40}" locked.rev != null;
assert builtins.match "sha256-[A-Za-z0-9+/]{43}=" locked.narHash != null;
true
