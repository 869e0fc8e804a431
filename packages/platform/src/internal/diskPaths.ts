/**
 * Paths on a simulated disk: absolute from `/`, whether they begin with it or not, with `.` and `..` resolved by name.
 */
import type { DirectoryNode, DiskNode, DiskWorld } from "./diskWorld.ts"

/**
 * An operation that the disk refuses, with the errno code that a kernel would answer.
 *
 * @internal
 */
export class Refusal extends Error {
  override readonly name = "Refusal"
  readonly code: string
  constructor(code: string, reason: string) {
    super(reason)
    this.code = code
  }
}

/** @internal */
export const pathSegments = (path: string): ReadonlyArray<string> => {
  const segments: Array<string> = []
  for (const segment of path.split("/")) {
    if (segment === "" || segment === ".") continue
    if (segment === "..") segments.pop()
    else segments.push(segment)
  }
  return segments
}

/** @internal */
export const normalizePath = (path: string): string => `/${pathSegments(path).join("/")}`

/** A place for a name, and what has it. The root has no place. */
interface Place {
  readonly directory: DirectoryNode
  readonly name: string
  readonly node: DiskNode | undefined
}

/**
 * Throws `ENOENT` or `ENOTDIR` when the directory that the path leads through is missing or a file, `EISDIR` for the
 * root.
 *
 * @internal
 */
export const placeOf = (world: DiskWorld, path: string): Place => {
  const segments = pathSegments(path)
  const name = segments.at(-1)
  if (path === "") throw new Refusal("ENOENT", "the path is empty")
  if (name === undefined) throw new Refusal("EISDIR", "the root is a directory")
  const directory = directoryAt(world, segments.slice(0, -1))
  return { directory, name, node: directory.entries.get(name) }
}

/** @internal */
export const directoryAt = (world: DiskWorld, segments: ReadonlyArray<string>): DirectoryNode => {
  let directory = world.root
  for (const segment of segments) {
    const node = directory.entries.get(segment)
    if (node === undefined) throw new Refusal("ENOENT", `there is no ${segment} in ${directory.path}`)
    if (node.kind === "file") throw new Refusal("ENOTDIR", `${node.path} is a file`)
    directory = node
  }
  return directory
}

/** @internal */
export const fileAt = (world: DiskWorld, path: string) => {
  const { node } = placeOf(world, path)
  if (node === undefined) throw new Refusal("ENOENT", "there is no such file")
  if (node.kind === "directory") throw new Refusal("EISDIR", "a directory stands there")
  return node
}

/**
 * Makes what is missing of a path of directories.
 *
 * @internal
 */
export const makeDirectories = (world: DiskWorld, path: string): DirectoryNode => {
  const segments = pathSegments(path)
  let directory = world.root
  segments.forEach((segment, index) => {
    const node = directory.entries.get(segment) ?? world.makeDirectory(directory, segment)
    if (node.kind === "file") {
      throw new Refusal(index === segments.length - 1 ? "EEXIST" : "ENOTDIR", `${node.path} is a file`)
    }
    directory = node
  })
  return directory
}
