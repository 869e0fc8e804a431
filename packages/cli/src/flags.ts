/**
 * Flags and arguments that several commands share.
 *
 * @since 0.1.0
 */
import * as Argument from "effect/cli/Argument"
import * as Flag from "effect/cli/Flag"

/**
 * `--json`.
 *
 * @category flags
 * @since 0.1.0
 */
export const json = Flag.Boolean("json").pipe(
  Flag.withDescription("Print one JSON document on standard output instead of text"),
  Flag.withDefault(false)
)

const isPath = (path: string): boolean => path !== ""
const noPath = "a path that is not empty"

/**
 * The database that a command works on.
 *
 * @category arguments
 * @since 0.1.0
 */
export const database = Argument.String("DB").pipe(
  Argument.withDescription("Path of the database file"),
  Argument.filter(isPath, () => noPath)
)

/**
 * The database, or the directory of the append log, that a command works on.
 *
 * @category arguments
 * @since 0.1.0
 */
export const databaseOrLog = Argument.String("DB-or-DIR").pipe(
  Argument.withDescription("Path of the database file, or of the directory of an append log"),
  Argument.filter(isPath, () => noPath)
)

/**
 * `--accept-loss`.
 *
 * @category flags
 * @since 0.1.0
 */
export const acceptLoss = Flag.Boolean("accept-loss").pipe(
  Flag.withDescription(
    "Keep what is whole of a damaged log instead of refusing it; commits behind the damage are lost"
  ),
  Flag.withDefault(false)
)

/**
 * More fibers than this only wait for each other.
 *
 * @category constants
 * @since 0.1.0
 */
export const maxWriters = 4096

/**
 * `--writers`: how many fibers commit at once.
 *
 * @category flags
 * @since 0.1.0
 */
export const writers = Flag.Int("writers").pipe(
  Flag.withDescription(`How many writers commit at once, 1 ... ${maxWriters} (default 64)`),
  Flag.filter(
    (writers) => writers >= 1 && writers <= maxWriters,
    (writers) => `${writers} is not in 1 ... ${maxWriters}`
  ),
  Flag.withDefault(64)
)

/**
 * `--trust-segments`.
 *
 * @category flags
 * @since 0.1.0
 */
export const trustSegments = Flag.Boolean("trust-segments").pipe(
  Flag.withDescription(
    "Where the certificate log of a parallel log is missing: replay every segment, acknowledged or not, as for files "
      + "of FrankenSQLite"
  ),
  Flag.withDefault(false)
)

/**
 * `--discard-segments`.
 *
 * @category flags
 * @since 0.1.0
 */
export const discardSegments = Flag.Boolean("discard-segments").pipe(
  Flag.withDescription("Where the certificate log of a parallel log is missing: go on without its segments"),
  Flag.withDefault(false)
)
