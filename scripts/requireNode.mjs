/**
 * Refuses to start on a Node that cannot run the sources, with the reason.
 *
 * The root scripts load it with `node --import`, before their own TypeScript file is read. It is plain JavaScript, the
 * only file here that is, because an old Node cannot parse anything else.
 */
const [major = 0, minor = 0] = process.versions.node.split(".").map(Number)

if (major < 22 || (major === 22 && minor < 19)) {
  console.error(
    `Tidemark needs Node 22.19 or newer, and this is Node ${process.versions.node} (${process.execPath}).\n`
      + "On Linux (x64, arm64) and macOS (arm64) the root package.json brings a fitting Node as an optional dependency,\n"
      + "which was not installed here: run `npx --yes pnpm@12 install` and use the scripts through pnpm, as in\n"
      + "`npx --yes pnpm@12 test`. On other systems install Node 22.19 or newer."
  )
  process.exit(2)
}
