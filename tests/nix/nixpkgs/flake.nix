{
  description = "A strict stand-in for nixpkgs: what this flake uses of it, and not a thing more";

  outputs =
    { self }:
    {
      lib = import ./lib.nix;

      legacyPackages =
        self.lib.genAttrs
          [
            "x86_64-linux"
            "aarch64-linux"
            "x86_64-darwin"
            "aarch64-darwin"
          ]
          (
            system:
            import ./packages.nix {
              inherit (self) lib;
              inherit system;
            }
          );

      # For scripts/check-flake: the modules, with two pipelines.
      evaluate = import ./modules.nix {
        inherit (self) lib;
        inherit (self) legacyPackages;
      };
    };
}
