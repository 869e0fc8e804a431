/**
 * Files for the tests of shared memory.
 */
import type { NativeBackend } from "@tidemark/platform/FileLock"
import { Effect } from "effect"
import { spawnSync } from "node:child_process"
import * as NodeFs from "node:fs"
import * as NodeOs from "node:os"
import * as NodePath from "node:path"

/** Whether this backend is here, so that a missing one is skipped and a broken one is not. */
export const canMap = (backend: NativeBackend): boolean =>
  process.platform === "linux" && (backend === "koffi" || process.getBuiltinModule("node:ffi") !== undefined)

/** An empty directory, removed with the scope. */
export const temporaryDirectory = Effect.acquireRelease(
  Effect.sync(() => NodeFs.mkdtempSync(NodePath.join(NodeOs.tmpdir(), "tidemark-shared-"))),
  (directory) => Effect.sync(() => NodeFs.rmSync(directory, { recursive: true, force: true }))
)

const mount = (directory: string, bytes: number): boolean =>
  spawnSync("mount", ["-t", "tmpfs", "-o", `size=${bytes}`, "tidemark-test", directory]).status === 0

/** Whether this process may mount: tests that need it are skipped, visibly, where it may not. */
export const canMount = (() => {
  const directory = NodeFs.mkdtempSync(NodePath.join(NodeOs.tmpdir(), "tidemark-mount-"))
  const mounted = mount(directory, 4096)
  if (mounted) spawnSync("umount", ["--lazy", directory])
  NodeFs.rmdirSync(directory)
  return mounted
})()

/** A directory on a file system in memory of so many bytes, for as long as the scope is open. */
export const smallFileSystem = (bytes: number) =>
  Effect.tap(temporaryDirectory, (directory) =>
    Effect.acquireRelease(
      Effect.sync(() => {
        if (!mount(directory, bytes)) throw new Error("a small file system cannot be mounted any more")
      }),
      () => Effect.sync(() => spawnSync("umount", ["--lazy", directory]))
    ))
